"""What the class names and model types of Hugging Face configurations mean in ModelPack's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# model_type (or a GGUF architecture) that begins so → ModelPack architecture. Whatever else the
# transformers library loads is a transformer.
_NOT_TRANSFORMERS: Final[tuple[tuple[str, str], ...]] = (
    ("resnet", "cnn"), ("convnext", "cnn"), ("efficientnet", "cnn"), ("mobilenet", "cnn"),
    ("regnet", "cnn"), ("densenet", "cnn"), ("vgg", "cnn"), ("bit", "cnn"), ("van", "cnn"),
    ("unet", "cnn"), ("yolo", "cnn"), ("poolformer", "cnn"), ("hifigan", "cnn"),
    ("lstm", "rnn"), ("gru", "rnn"), ("rnn", "rnn"), ("rwkv", "rnn"), ("xlstm", "rnn"),
    ("mamba", "ssm"), ("falcon_mamba", "ssm"),
)  # fmt: skip
# Names that begin like one of the above and are something else.
_EXCEPTIONS: Final = ("bitnet", "vandit")

_TEXT: Final = ("text",)
_IMAGE: Final = ("image",)
_AUDIO: Final = ("audio",)

# The class's ending → (inputs, outputs). The first that fits decides.
_HEADS: Final[tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]] = (
    ("ForCausalLM", _TEXT, _TEXT),
    ("LMHeadModel", _TEXT, _TEXT),
    ("ForMaskedLM", _TEXT, _TEXT),
    ("ForQuestionAnswering", _TEXT, _TEXT),
    ("ForTokenClassification", _TEXT, ("other",)),
    ("ForImageTextToText", ("text", "image"), _TEXT),
    ("ForImageClassification", _IMAGE, ("other",)),
    ("ForObjectDetection", _IMAGE, ("other",)),
    ("ForSpeechSeq2Seq", _AUDIO, _TEXT),
    ("ForCTC", _AUDIO, _TEXT),
    ("ForAudioClassification", _AUDIO, ("other",)),
    ("ForTextToSpeech", _TEXT, _AUDIO),
)
# Families whose bare model (no head) turns text into vectors.
_TEXT_ENCODERS: Final = frozenset({
    "bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "albert", "electra", "deberta",
    "deberta-v2", "camembert", "nomic_bert", "modernbert", "new", "gte", "ernie",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Modalities:
    """ModelPack input and output types, empty where nothing certain is known."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def family_of(config: Mapping[str, object]) -> str:
    """`model_type`, such as "bert" or "llama", or ""."""
    return _name(config.get("model_type"))


def architecture_of(config: Mapping[str, object], gguf_architecture: str = "") -> str:
    """One of "transformer", "cnn", "rnn" or "ssm" (the vocabulary is free), "" when unknown."""
    name = (family_of(config) or gguf_architecture).lower()
    known = name or _class_of(config)
    if not known:
        return ""
    if not name.startswith(_EXCEPTIONS):
        for prefix, architecture in _NOT_TRANSFORMERS:
            if name == prefix or name.startswith((prefix + "_", prefix + "-")):
                return architecture
            # mobilenet_v2 and rwkv6 alike: digits and versions follow directly.
            if name.startswith(prefix) and name[len(prefix) :].lstrip("v")[:1].isdigit():
                return architecture
    return "transformer"


def modalities_of(config: Mapping[str, object]) -> Modalities:
    """What the first class of `architectures` takes and gives."""
    found = _class_of(config)
    for ending, inputs, outputs in _HEADS:
        if found.endswith(ending):
            return Modalities(_with_towers(config, inputs), outputs)
    if found.endswith("ForConditionalGeneration"):
        # T5 and BART read text only, Whisper sound only, LLaVA and its kin what has a tower.
        inputs = _AUDIO if "num_mel_bins" in config else _with_towers(config, _TEXT)
        return Modalities(inputs, _TEXT)
    if found.endswith("Model") and family_of(config) in _TEXT_ENCODERS:
        return Modalities(_TEXT, ("embedding",))
    return Modalities()


def _with_towers(config: Mapping[str, object], inputs: tuple[str, ...]) -> tuple[str, ...]:
    for key, kind in (("vision_config", "image"), ("audio_config", "audio")):
        if isinstance(config.get(key), Mapping) and kind not in inputs:
            inputs = (*inputs, kind)
    return inputs


def _class_of(config: Mapping[str, object]) -> str:
    found = config.get("architectures")
    return _name(found[0]) if isinstance(found, list) and found else ""


def _name(value: object) -> str:
    """A short printable name, or "": config.json is anyone's to write."""
    if isinstance(value, str) and len(value) <= 128 and value.isprintable():
        return value
    return ""
