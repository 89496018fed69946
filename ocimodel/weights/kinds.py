"""What each file of a model directory is to ModelPack: a weight, its configuration, a document…

Content decides before the name: a pickle called `notes.md` is a weight. The tables of names
follow modctl's (pkg/modelfile/constants.go), so both tools sort a Hugging Face directory alike;
where its lists overlap, ours prefers datasets for `*.jsonl` and code for `requirements.txt`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from fnmatch import translate
from typing import Final

from ocimodel.weights import magic, safetensors


class Kind(StrEnum):
    """ModelPack's file kinds, as they stand in layer media types."""

    WEIGHT = "weight"
    WEIGHT_CONFIG = "weight.config"
    DOC = "doc"
    CODE = "code"
    DATASET = "dataset"


# An unknown binary of this many bytes is taken for weights.
LARGE: Final = 1024 * 1024

# Names, lower case, in the order they are tried: the first line that matches decides.
NAMES: Final[tuple[tuple[Kind, str], ...]] = (
    # Text that the model needs to run, although its ending says "document" or "code".
    (Kind.WEIGHT_CONFIG, "vocab.txt merges.txt added_tokens.txt *vocab*.txt bpe.codes *.vocab"),
    (
        Kind.WEIGHT_CONFIG,
        "tokenizer*.json tokenizer*.txt tokenizer*.bin tokenizer*.pkl *.spm *.bpe *.tiktoken",
    ),
    (Kind.WEIGHT_CONFIG, "labels.txt label_map.txt id2label.txt classes.txt"),
    # Projects' own files, although their ending says "configuration" or "document".
    (Kind.CODE, "requirements*.txt constraints*.txt pyproject.toml setup.cfg setup.py tox.ini"),
    (Kind.CODE, "package.json package-lock.json yarn.lock pnpm-lock.yaml *.lock go.mod go.sum"),
    (Kind.CODE, "dockerfile* containerfile* makefile* cmakelists.txt jenkinsfile .env*"),
    (Kind.CODE, ".git* .dockerignore .pre-commit-config.yaml .editorconfig"),
    (Kind.DOC, "readme* license* licence* copying* notice* changelog* authors* citation* *.md"),
    (Kind.DOC, "*model_card* *modelcard*.md use_policy* acceptable_use*"),
    (
        Kind.WEIGHT,
        "*.safetensors *.gguf *.gguf.[0-9]* *.ggml *.onnx *.onnx_data* *.onnx.data *.pt *.pth",
    ),
    (
        Kind.WEIGHT,
        "*.bin *.bin.[0-9]* *.ckpt *.checkpoint *.mar *.pte *.pt2 *.ptl *.dist_ckpt *.distcp",
    ),
    (
        Kind.WEIGHT,
        "*.h5 *.hdf5 *.keras *.pb *.tflite *.data-?????-of-????? *.index *.msgpack *.npy *.npz",
    ),
    (Kind.WEIGHT, "*.pkl *.pickle *.joblib *.ot *.engine *.trt *.plan *.mlmodel *.mlpackage"),
    (
        Kind.WEIGHT,
        "*.caffemodel *.dlc *.circle *.nb *.nemo *.llamafile *.tensors *.weights *.params",
    ),
    (Kind.WEIGHT, "*.ubj *.xgb *.lgb *.cbm *.pmml *.mleap *.surml *.coreml *.pdparams *.pdiparams"),
    (Kind.DATASET, "*.jsonl *.ndjson *.csv *.tsv *.parquet *.arrow *.feather *.orc *.avro"),
    (Kind.DATASET, "*.tfrecord* *.lance *.mds *.csv.gz *.jsonl.gz *.jsonl.zst *.webdataset"),
    (Kind.WEIGHT_CONFIG, "*.json *.json5 *.jsonc *.yaml *.yml *.toml *.ini *.cfg *.conf *.config"),
    (
        Kind.WEIGHT_CONFIG,
        "*.properties *.xml *.jinja *.jinja2 *.modelcard *.meta *.hparams *.pbtxt",
    ),
    (Kind.WEIGHT_CONFIG, "*.prototxt *.gbnf mlmodel modelfile *.model *.model.v[0-9]*"),
    (Kind.CODE, "*.py *.pyi *.pyx *.ipynb *.sh *.bash *.zsh *.fish *.ps1 *.bat *.cmd *.patch"),
    (Kind.CODE, "*.c *.h *.cc *.cpp *.cxx *.hpp *.cu *.cuh *.java *.scala *.kt *.go *.rs *.swift"),
    (Kind.CODE, "*.js *.mjs *.cjs *.jsx *.ts *.tsx *.rb *.php *.r *.jl *.lua *.pl *.cs *.m *.mm"),
    (Kind.CODE, "*.sql *.zig *.cmake *.mk *.gradle *.bazel *.bzl *.so *.so.* *.dll *.dylib *.a"),
    (Kind.CODE, "*.whl *.jar *.wasm *.pyc *.ptx *.cubin *.metal *.css"),
    (Kind.DOC, "*.txt *.rst *.pdf *.html *.htm *.tex *.bib *.adoc *.org *.rtf *.log *.doc *.docx"),
    (Kind.DOC, "*.odt *.xls *.xlsx *.ods *.ppt *.pptx *.odp *.epub *.svg *.png *.jpg *.jpeg"),
    (Kind.DOC, "*.gif *.bmp *.tif *.tiff *.ico *.webp *.heic *.mp4 *.mov *.webm *.mkv *.avi"),
    (Kind.DOC, "*.wav *.mp3 *.flac *.ogg *.m4a *.tfevents.*"),
)

_COMPILED: Final = tuple(
    (kind, re.compile("|".join(translate(pattern) for pattern in line.split())))
    for kind, line in NAMES
)


def classify(path: str, size: int, head: bytes) -> Kind:
    """The kind of the file at `path` (relative, POSIX) of `size` bytes that begins with `head`.

    `head`: its first bytes, up to 4 KiB. Never fails: a file that nothing tells apart is a
    document when it is text, weights when it is binary and large, else part of the configuration,
    since a model may need it to run.
    """
    name = path.rpartition("/")[2].lower()
    kind = _by_content(name, size, head) or _by_name(name)
    if kind is Kind.WEIGHT_CONFIG and name.endswith(".model"):
        return _dot_model(name, size, head)
    if kind is not None:
        return kind
    if magic.is_text(head):
        return Kind.DOC
    return Kind.WEIGHT if size >= LARGE else Kind.WEIGHT_CONFIG


def _by_content(name: str, size: int, head: bytes) -> Kind | None:
    found = magic.format_of(head)
    if found == "zip":
        # Only an archive whose first entry is a checkpoint's is certain: a .docx is a zip too.
        return Kind.WEIGHT if magic.begins_torch_zip(head) else None
    # A pickle's two bytes are weak: a tokenizer's own table may be pickled.
    if found and not (found == "pickle" and name.startswith("tokenizer")):
        return Kind.WEIGHT
    if safetensors.looks_like(head, size):
        return Kind.WEIGHT
    if magic.is_code(head):
        return Kind.CODE
    if magic.is_dataset(head):
        return Kind.DATASET
    return Kind.DOC if magic.is_document(head) else None


def _by_name(name: str) -> Kind | None:
    return next((kind for kind, pattern in _COMPILED if pattern.match(name)), None)


def _dot_model(name: str, size: int, head: bytes) -> Kind:
    """`*.model` is a SentencePiece vocabulary, or else some framework's weights."""
    # A SentencePiece model is protobuf that begins with piece (field 1) of pieces (field 1).
    is_sentencepiece = len(head) >= 3 and head[0] == 0x0A and head[2] == 0x0A
    if "token" in name or name.startswith(("spiece", "sentencepiece")) or is_sentencepiece:
        return Kind.WEIGHT_CONFIG
    large_binary = size >= LARGE and not magic.is_text(head)
    return Kind.WEIGHT if large_binary else Kind.WEIGHT_CONFIG
