"""Importing the package, and asking the program for its version or help, loads nothing heavy."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ocimodel
from tests.servers.registry import DockerRegistry
from tests.trees import write_tree

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


VERIFY = """
import sys, sysconfig
import ocimodel
ocimodel.verify(sys.argv[1], key=sys.argv[2])
home = sysconfig.get_paths()["purelib"]
files = {{n.partition(".")[0]: getattr(m, "__file__", None) or "" for n, m in sys.modules.items()}}
print(*sorted(n for n, file in files.items() if file.startswith(home)), file=sys.stderr)
"""


def test_verifying_by_key_needs_cryptography_alone(
    docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    reference = f"{docker_registry.host}/startup/signed:v1"
    pair = ocimodel.keygen(tmp_path / "k")
    model = write_tree(tmp_path / "model", {"config.json": b"{}"})
    ocimodel.push(model, reference, sign=str(pair.private), passphrase=lambda what: b"")
    argv = [sys.executable, "-c", VERIFY.format(), reference, str(pair.public)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {name for name in done.stderr.split() if not name.startswith("_")}
    assert "cryptography" in found
    # bcrypt: cryptography itself loads it, where it is installed
    assert found <= {"cryptography", "bcrypt", "ocimodel"}
