"""The ocimodel.yaml that `init` writes: what a person gets who takes away one # or all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import ocimodel
from ocimodel.spec.modelfile import Modelfile, parse_modelfile
from tests.servers.models import tiny_safetensors
from tests.trees import write_tree

# one commented declaration, with the indented lines that belong to it
DECLARATION = re.compile(r"^# (\w+:.*\n(?:#  .*\n)*)", re.MULTILINE)
HOSTILE = ["no", "7", "a: b", "x # y", "größe", "x\u2028include: []", "x\ny", "🤗", "'\"", "- x"]


def written(directory: Path, model_type: str = "") -> str:
    if model_type:
        write_tree(directory, {"config.json": json.dumps({"model_type": model_type}).encode()})
        tiny_safetensors(directory / "model.safetensors", {"a": (8, 8)})
    return ocimodel.init(directory).path.read_text("utf-8")


def uncommented(text: str) -> str:
    return re.sub("^#", "", text, flags=re.MULTILINE).replace("\n ", "\n").lstrip()


@pytest.mark.parametrize("model_type", ["", "bert"])
def test_as_written_it_declares_nothing(tmp_path: Path, model_type: str) -> None:
    assert parse_modelfile(yaml.safe_load(written(tmp_path, model_type)), "f") == Modelfile()


@pytest.mark.parametrize("model_type", ["", "bert"])
def test_each_line_may_be_uncommented(tmp_path: Path, model_type: str) -> None:
    text = written(tmp_path, model_type)
    found = DECLARATION.findall(text)
    assert len(found) == 22
    for declaration in found:
        lines = uncommented(f"# {declaration}")
        (key,) = yaml.safe_load(lines)
        parsed = parse_modelfile(yaml.safe_load(text.replace(f"# {declaration}", lines)), "f")
        assert list(parsed.raw) == [key]
        assert parsed != Modelfile()
    everything = "".join(uncommented(f"# {declaration}") for declaration in found)
    assert parse_modelfile(yaml.safe_load(everything), "f").raw.keys() == {
        declaration.partition(":")[0] for declaration in found
    }


@pytest.mark.parametrize("family", HOSTILE)
def test_what_a_model_says_of_itself_stays_one_value(tmp_path: Path, family: str) -> None:
    text = written(tmp_path, family)
    assert yaml.safe_load(text) is None
    (line,) = [line for line in text.split("\n") if line.startswith("# family: ")]
    said = yaml.safe_load(line.removeprefix("# "))["family"]
    assert said == family or "none found" in line
