"""vLLM's loader interface as we use it, without vLLM: options, registration, the real signatures.

That tensors arrive is tested in tests/integration/test_torch.py.
"""

from __future__ import annotations

import ast
import importlib
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from ocimodel.errors import UsageError
from ocimodel.integrations import vllm as ours
from tests.servers.loopback import cache_root
from tests.servers.vllm_standin import FILES, write_vllm

ENTRY_POINT = EntryPoint("ocimodel", "ocimodel.integrations.vllm:register", "vllm.general_plugins")
REFERENCE = "registry.example.com/team/m:v1"


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in's package of loaders, with its LoadConfig."""
    monkeypatch.syspath_prepend(write_vllm(tmp_path / "standin"))
    loaders = importlib.import_module("vllm.model_executor.model_loader")
    loaders.LoadConfig = importlib.import_module("vllm.config.load").LoadConfig  # type: ignore[attr-defined]
    yield loaders
    ours.loader_class.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


def test_the_plugin_registers_a_loader_and_may_do_so_again(vllm: Any) -> None:
    for _ in range(2):
        ENTRY_POINT.load()()
    config = vllm.LoadConfig("ocimodel", {"reference": REFERENCE})
    loader = vllm.get_model_loader(config)
    assert isinstance(loader, vllm.BaseModelLoader)
    assert loader.load_config is config
    # no cache: nothing to do, and nobody asked
    loader.download_model(None)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "needs the model's reference"),
        ({"reference": ""}, "needs the model's reference"),
        ("registry.example.com/m", "needs the model's reference"),
        ({"reference": REFERENCE, "polcy": "p.yaml"}, "has no 'polcy'"),
        ({"reference": REFERENCE, "require_lazy": 1}, "require_lazy .* has to be a bool"),
        ({"reference": REFERENCE, "workers": True}, "workers .* has to be a int"),
        ({"reference": REFERENCE, "workers": -1}, "less than 0"),
        ({"reference": REFERENCE, "key": None}, "key .* has to be a str"),
        ({"reference": ["x"]}, "reference .* has to be a str"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_loaded(
    vllm: Any, given: object, why: str
) -> None:
    ours.register()
    with pytest.raises(UsageError, match=why):
        vllm.get_model_loader(vllm.LoadConfig("ocimodel", given))


def test_options_of_every_kind_are_taken() -> None:
    given = {
        "reference": REFERENCE, "key": "k.pub", "policy": "p.yaml", "cache": "/cache",
        "prefix": "model.", "workers": 4, "require_lazy": True,
    }  # fmt: skip
    parsed = ours.Options.parse(given)
    assert {name: getattr(parsed, name) for name in given} == given


def test_the_stand_in_is_as_the_real_one() -> None:
    """Every function and method of it has the parameters of the real one, in their order."""
    real = real_sources()
    for name, text in FILES.items():
        mine, theirs = signatures(text), signatures(real[name])
        assert {key: theirs.get(key) for key in mine} == mine, name


def test_the_real_loader_asks_for_no_more_than_ours_has() -> None:
    base = real_sources()["vllm/model_executor/model_loader/base_loader.py"]
    for name, function in functions(base):
        if any("abstractmethod" in ast.unparse(d) for d in function.decorator_list):
            mine = getattr(ours.OcimodelLoader, name.rpartition(".")[2])
            assert mine.__code__.co_varnames[: mine.__code__.co_argcount] == parameters(function)


def real_sources() -> dict[str, str]:
    wheels = sorted((cache_root() / "tools").glob("vllm-*.whl"))
    if not wheels:
        pytest.skip("no wheel of vLLM (pip download --no-deps vllm -d .cache/tools)")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        return {name: wheel.read(name).decode() for name in FILES}


def functions(source: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods by their names."""
    for node in ast.parse(source).body:
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef):
                owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
                yield owner + inner.name, inner


def parameters(function: ast.FunctionDef) -> tuple[str, ...]:
    return tuple(argument.arg for argument in function.args.args)


def signatures(source: str) -> dict[str, tuple[str, ...]]:
    """Parameters of functions and methods; for the fields of dataclasses, their names alone."""
    fields = {
        f"{node.name}.{inner.target.id}": ()
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for inner in node.body
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name)
    }
    return {**fields, **{name: parameters(found) for name, found in functions(source)}}
