"""The places where a container starts it: no home, nothing writable, no rights, odd locales."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli
from tests.trees import read_tree

NOBODY = 65534
# A user without rights may be unable to enter the folder of the interpreter or of the checkout:
# all that may be imported is, before the rights go.
DROP = f"""
import encodings.idna, importlib, pkgutil, os, sys
import oras.provider, yaml, ocimodel
for module in pkgutil.walk_packages(ocimodel.__path__, "ocimodel."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
os.chdir(os.environ["WORK"])
sys.argv[0] = "ocimodel"
from ocimodel.cli.main import main
main()
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that everyone may enter and no one but its owner may change."""
    place = Path(tempfile.mkdtemp(prefix="ocimodel-"))
    place.chmod(0o755)
    yield place
    for folder, _, _ in os.walk(place):
        Path(folder).chmod(0o755)
    shutil.rmtree(place)


@pytest.fixture
def powerless(cli: Cli, place: Path) -> Cli:
    """Runs in `place` as a user with no home and no right to write there."""
    nowhere = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), "/nonexistent")
    if os.geteuid() == 0:
        program = (sys.executable, "-c", DROP)
        return Cli(cli.cwd, program, {**cli.env, **nowhere, "WORK": str(place)})
    place.chmod(0o555)
    return Cli(place, cli.program, {**cli.env, **nowhere})


def writable(place: Path) -> Path:
    place.chmod(0o755)
    folder = place / "target"
    folder.mkdir()
    folder.chmod(0o777)
    place.chmod(0o555)
    return folder


def test_pull_as_nobody_without_a_home(
    powerless: Cli, pushed: str, place: Path, model: Path
) -> None:
    target = writable(place)
    done = powerless("pull", pushed, "-o", target / "copy")
    assert read_tree(target / "copy") == read_tree(model)
    assert {line.partition(":")[0] for line in done.err.splitlines()} == {"done"}
    if os.geteuid() == 0:
        assert (target / "copy" / "config.json").stat().st_uid == NOBODY
    again = powerless("pull", pushed, "-o", target / "copy", "--json").document
    assert again["bytesFetched"] == 0


def test_push_as_nobody(powerless: Cli, model: Path, place: Path, repo: str) -> None:
    place.chmod(0o755)
    shutil.copytree(model, place / "model")
    place.chmod(0o555)
    assert powerless("push", "model", f"{repo}:v1", "-q").err == ""
    told = powerless("doctor", f"{repo}:v1").out
    assert "hint: set OCIMODEL_STATE_DIR" in told


def test_a_home_of_someone_else_holds_no_settings(
    powerless: Cli, cli: Cli, pushed: str, place: Path
) -> None:
    home = cli.cwd / "home"
    (home / ".config" / "ocimodel").mkdir(parents=True)
    (home / ".config" / "ocimodel" / "config.yaml").write_text("nonsense: 1\n")
    home.chmod(0o000)
    try:
        mine = {"HOME": str(home), "XDG_CONFIG_HOME": f"{home}/.config", "XDG_CACHE_HOME": ""}
        assert powerless("ls", pushed.rpartition(":")[0], env=mine).out == "v1\n"
    finally:
        home.chmod(0o755)


def test_a_complete_read_only_directory_is_enough(
    powerless: Cli, cli: Cli, pushed: str, place: Path
) -> None:
    place.chmod(0o755)
    cli("pull", pushed, "-o", place / "copy", "-q")
    for folder, _, _ in os.walk(place):
        Path(folder).chmod(0o555)
    done = powerless("pull", pushed, "-o", "copy", "--json")
    assert done.document["bytesFetched"] == 0
    (place / "copy").chmod(0o755)
    (place / "copy" / "config.json").unlink()
    (place / "copy").chmod(0o555)
    assert "error: " in powerless("pull", pushed, "-o", "copy", code=10).err


@pytest.mark.parametrize(
    "locale",
    [{"LC_ALL": "C"}, {"LC_ALL": "xx_XX.UTF-8"}, {"PYTHONIOENCODING": "ascii"}],
    ids=["C", "unknown", "ascii"],
)
def test_names_survive_a_poor_locale(
    cli: Cli, model: Path, pushed: str, locale: dict[str, str]
) -> None:
    pulled = cli("pull", pushed, "-o", "copy", "--json", env=locale)
    assert read_tree(cli.cwd / "copy") == read_tree(model)
    assert "größe 1.txt" in [file["path"] for file in pulled.document["files"]]
    shown = cli("inspect", pushed, env=locale).out
    assert "größe 1.txt" in shown or "gr\\xf6\\xdfe 1.txt" in shown
