"""init: a commented ocimodel.yaml, with what could be read from the directory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ocimodel.errors import ConflictError
from ocimodel.ops.packing import describe_directory
from ocimodel.spec.modelfile import FILENAME
from ocimodel.store.growing import target_error
from ocimodel.weights import Described

# file or folder → what it tells of where a model comes from
_SYSTEMS = (
    (".git", "git"),
    (".dvc", "DVC"),
    ("dvc.yaml", "DVC"),
    ("MLmodel", "MLflow"),
    ("ormbfile.yaml", "ORMB"),
    ("Kitfile", "KitOps"),
)


@dataclass(frozen=True, slots=True)
class InitResult:
    """`systems`: where the model seems to come from, by the files there."""

    path: Path
    described: Described
    systems: tuple[str, ...]


def init(directory: Path | str = ".", *, force: bool = False) -> InitResult:
    """Write ocimodel.yaml into a model directory.

    Every value in it is commented out: each has a default, shown. ConflictError if the file is
    there, unless `force`.
    """
    root = Path(directory)
    described = describe_directory(root)
    path = root / FILENAME
    if path.exists() and not force:
        raise ConflictError(f"{path} is there already", hint="edit it, or say --force")
    systems = tuple(dict.fromkeys(name for file, name in _SYSTEMS if _is_near(root, file)))
    try:
        path.write_text(_text(described, systems), encoding="utf-8")
    except OSError as error:
        raise target_error(error, path) from error
    return InitResult(path, described, systems)


def _is_near(root: Path, name: str) -> bool:
    """In the directory, or for a repository in one above it."""
    folders = (root, *root.resolve().parents) if name.startswith(".") else (root,)
    return any((folder / name).exists() for folder in folders)


def _text(described: Described, systems: tuple[str, ...]) -> str:
    found = ", ".join(systems) or "no version control"
    return f"""\
# What ocimodel says about this model. Everything here is optional; take away a # to change a
# default. Schema: https://ocimodel.dev/schemas/modelfile.schema.json
# Found here: {described.format or "no weights"}; {found}.

# --- what it is called
# name: my-model
# version: 1.0.0                  # quote a number: "1.0"
# title: My model
# description: What it is good for, and what not.
# authors: ["A. Author <a@example.com>"]
# vendor: Example
# licenses: [Apache-2.0]          # SPDX identifiers
# docURL: https://example.com/docs
# sourceURL: https://example.com/git/model
# revision: 9fceb02               # of the source, such as a git commit

# --- what it is; read from the weights and config.json
# family: {_value(described.family, "bert")}
# architecture: {_value(described.architecture, "transformer")}
# format: {_value(described.format, "safetensors")}
# paramSize: {_value(described.param_size, "22.7M")}
# precision: {_value(described.precision, "float16")}
# quantization: {_value(described.quantization, "gptq")}
# capabilities:
#   inputTypes: [{", ".join(described.input_types) or "text"}]
#   outputTypes: [{", ".join(described.output_types) or "text"}]

# --- what belongs to it; patterns as in .gitignore
# include: ["*.safetensors", "*.json"]
# exclude: ["checkpoints/", "*.log"]
# kinds:                          # weight, weight.config, doc, code or dataset
#   "*.bin": weight

# --- free annotations of the manifest
# labels:
#   com.example.team: search

# --- of the ocimodel command when it runs in this directory
# settings:
#   concurrency: 8
"""


def _value(found: str, example: str) -> str:
    """What was found, in quotes where YAML would read something else; or an example."""
    import yaml

    if not found:
        return f"{example:<20}  # none found; an example"
    plain: str = yaml.safe_dump(found, width=math.inf).removesuffix("...\n").strip()
    if plain == found:
        return found
    # with every line break escaped: nothing of it can leave the comment
    quoted: str = yaml.safe_dump(found, width=math.inf, default_style='"')
    return quoted.strip()
