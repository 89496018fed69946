"""Importing the package, and asking the program for its version or help, loads nothing heavy."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import ocimodel

HEAVY = {"rich", "oras", "requests", "yaml", "cryptography", "sqlite3", "numpy"}
LOADED = """
import sys
try:
    {statement}
except SystemExit as end:
    assert not end.code, end.code
print(*sorted({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""


def loaded(statement: str, *arguments: str) -> set[str]:
    argv = [sys.executable, "-c", LOADED.format(statement=statement), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_the_package() -> None:
    found = loaded("import ocimodel")
    assert "ocimodel" in found
    assert not found & (HEAVY | {"typer", "json", "ssl"})


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("push", "--help"), ("completion", "bash")]
)
def test_the_program(arguments: tuple[str, ...]) -> None:
    found = loaded("from ocimodel.cli.main import main; main()", *arguments)
    assert "typer" in found
    # typer's module of completion scripts is the one that needs more
    assert not found & HEAVY


def test_everything_public_is_there_documented_and_typed() -> None:
    assert set(ocimodel.__all__) <= set(dir(ocimodel)) | set(ocimodel._HOMES) | {"ClientOptions"}
    for name in ocimodel.__all__:
        value = getattr(ocimodel, name)
        if name == "__version__":
            assert value.count(".") == 2
            continue
        assert inspect.getdoc(value), name
        signature = inspect.signature(value)
        for parameter in signature.parameters.values():
            assert parameter.annotation is not parameter.empty, f"{name}: {parameter}"
        if inspect.isfunction(value):
            assert signature.return_annotation is not signature.empty, name


def test_what_is_not_there_is_said_as_python_says_it() -> None:
    with pytest.raises(AttributeError, match="module 'ocimodel' has no attribute 'nothing'"):
        ocimodel.nothing  # noqa: B018
