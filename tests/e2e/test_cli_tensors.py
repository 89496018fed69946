"""`inspect --tensors` as a process: the table, the JSON, and what does not go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.e2e.conftest import Cli

ERROR = Callable[..., dict[str, Any]]


def test_the_table_lists_every_tensor(cli: Cli, pushed: str) -> None:
    lines = cli("inspect", pushed, "--tensors").out.splitlines()
    assert lines[0].split() == ["name", "dtype", "shape", "bytes", "file"]
    assert lines[1].split("  ")[0] == "layer.0.weight"
    assert lines[1].split() == [
        "layer.0.weight", "F32", "64x32", "8.2", "kB", "model.safetensors"
    ]  # fmt: skip
    assert lines[2] == ""
    assert lines[3].startswith("1 tensor, 8.2 kB in 1 file, from the ")


def test_json_has_the_places(cli: Cli, pushed: str) -> None:
    document = cli("inspect", pushed, "--tensors", "--json").document
    assert document["tensorsFrom"] in ("index", "headers")
    (tensor,) = document["tensors"]
    assert tensor["offset"] > 8
    del tensor["offset"]
    assert tensor == {
        "file": "model.safetensors",
        "name": "layer.0.weight",
        "dtype": "F32",
        "shape": [64, 32],
        "length": 8192,
    }
    assert "tensors" not in cli("inspect", pushed, "--json").document


def test_raw_and_tensors_do_not_go_together(error: ERROR, cli: Cli, pushed: str) -> None:
    assert "two things" in cli("inspect", pushed, "--raw", "--tensors", code=2).err
