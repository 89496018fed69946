"""One description from many files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.weights.describe import Described, describe, param_size
from ocimodel.weights.facts import WeightFacts, read_facts


def safe(n_bytes: int, **dtypes: int) -> WeightFacts:
    total = sum(dtypes.values())
    return WeightFacts("safetensors", total, tuple(dtypes.items()), n_bytes=n_bytes)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, "1"), (999, "999"), (1000, "1K"), (1234, "1.2K"), (999_949, "999.9K"),
        (999_960, "1M"), (22_713_728, "22.7M"), (6_738_415_616, "6.7B"), (10**12, "1T"),
        (10**15, "1Q"), (5 * 10**18, "5000Q"),
    ],
)  # fmt: skip
def test_param_size(n: int, expected: str) -> None:
    assert param_size(n) == expected


def test_shards_add_up_and_small_dtypes_do_not_count() -> None:
    found = describe([safe(200, BF16=1000, I64=5), safe(100, BF16=500, F32=495)])
    assert found.format == "safetensors"
    assert found.precision == "bfloat16,float32"
    assert (found.n_parameters, found.param_size) == (2000, "2K")
    assert describe([safe(1, F8_E4M3=60, F16=40)]).precision == "float8_e4m3,float16"


def test_one_format_speaks_for_the_model() -> None:
    torch = WeightFacts("torch", None, n_bytes=400)
    whole = [WeightFacts("onnx", n, (("F32", n),), n_bytes=4 * n) for n in (100, 99, 50)]
    found = describe([torch, *whole, safe(200, F16=100)])
    assert (found.format, found.n_parameters) == ("safetensors", 100)
    assert describe([torch, safe(10, F16=5)]).format == "pytorch"
    assert describe([torch]).param_size == ""
    # Variants of one model are not summed.
    assert describe(whole).n_parameters == 100


def test_gguf_variants_and_splits() -> None:
    q4 = WeightFacts("gguf", 100, (("Q4_K", 100),), "Q4_K_M", "llama", 60)
    q8 = WeightFacts("gguf", 100, (("Q8_0", 100),), "Q8_0", "llama", 110)
    found = describe([q4, q8])
    assert (found.quantization, found.n_parameters, found.precision) == ("Q8_0", 100, "q8_0")
    assert (found.family, found.architecture) == ("llama", "transformer")
    parts = [WeightFacts("gguf", 80, (("F16", 80),), "", "llama", 160, 2) for _ in range(2)]
    assert describe([q4, *parts]).n_parameters == 160


CONFIGS: list[tuple[dict[str, Any], str, str]] = [
    ({"model_type": "bert", "architectures": ["BertModel"]}, "transformer", "bert"),
    ({"model_type": "llama"}, "transformer", "llama"),
    ({"model_type": "resnet"}, "cnn", "resnet"),
    ({"model_type": "mobilenet_v2"}, "cnn", "mobilenet_v2"),
    ({"model_type": "rwkv6"}, "rnn", "rwkv6"),
    ({"model_type": "mamba2"}, "ssm", "mamba2"),
    ({"model_type": "bitnet"}, "transformer", "bitnet"),
    ({"architectures": ["XForCausalLM"]}, "transformer", ""),
    ({}, "", ""),
]


@pytest.mark.parametrize(("config", "architecture", "family"), CONFIGS)
def test_architecture_and_family(config: dict[str, Any], architecture: str, family: str) -> None:
    found = describe([], config)
    assert (found.architecture, found.family) == (architecture, family)


MODALITIES: list[tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = [
    ({"architectures": ["LlamaForCausalLM"]}, ("text",), ("text",)),
    (
        {"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}},
        ("text", "image"),
        ("text",),
    ),
    (
        {"architectures": ["WhisperForConditionalGeneration"], "num_mel_bins": 80},
        ("audio",),
        ("text",),
    ),
    ({"architectures": ["BertModel"], "model_type": "bert"}, ("text",), ("embedding",)),
    ({"architectures": ["ViTForImageClassification"]}, ("image",), ("other",)),
    ({"architectures": ["SomethingElse"]}, (), ()),
]


@pytest.mark.parametrize(("config", "inputs", "outputs"), MODALITIES)
def test_modalities(config: dict[str, Any], inputs: tuple[str, ...], outputs: Any) -> None:
    found = describe([safe(1, F32=1)], config)
    assert (found.input_types, found.output_types) == (inputs, outputs)


def test_packed_quantization_is_counted_unpacked() -> None:
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    found = describe([safe(1, I32=1000, F16=2000)], config)
    assert (found.quantization, found.n_parameters) == ("gptq", 10_000)
    assert found.precision == "int4,float16"
    nf4 = {"quantization_config": {"load_in_4bit": True}}
    assert describe([safe(1, U8=50)], nf4).n_parameters == 100
    fp8 = {"quantization_config": {"quant_method": "fp8"}}
    assert describe([safe(1, F8_E4M3=50)], fp8).quantization == "fp8"


def test_the_real_model(minilm_dir: Path) -> None:
    data = (minilm_dir / "model.safetensors").read_bytes()
    facts = read_facts(lambda o, n: data[o : o + n], len(data), "model.safetensors")
    assert facts is not None
    config = json.loads((minilm_dir / "config.json").read_text("utf-8"))
    assert describe([facts], config) == Described(
        format="safetensors",
        precision="float32",
        quantization="",
        param_size="22.7M",
        n_parameters=22713728,
        architecture="transformer",
        family="bert",
        input_types=("text",),
        output_types=("embedding",),
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KEYS = ["model_type", "architectures", "quantization_config", "vision_config", "num_mel_bins"]
QUANTIZATION = ["quant_method", "bits", "w_bit", "load_in_4bit"]


@given(
    st.dictionaries(
        st.sampled_from(KEYS),
        json_values
        | st.dictionaries(
            st.sampled_from(QUANTIZATION), json_values | st.sampled_from(["gptq", "awq"])
        ),
    )
)
def test_weird_configurations_do_no_harm(config: dict[str, Any]) -> None:
    found = describe([safe(1, I32=7, U8=7)], config)
    assert isinstance(found, Described)
