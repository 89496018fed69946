"""cache ls and cache gc: what they print, and what they refuse."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ocimodel.cli.main import main
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.memo import Memo
from tests.artifacts import random_bytes
from tests.cached import blob, chunks_of

SCHEMAS = Path(__file__).parents[2] / "schemas" / "cli"
CONTENT = random_bytes(300_000, 91)
OTHER = random_bytes(1_000_000, 92)
Run = Callable[..., str]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A whole blob, used first, and another one in part."""
    root = tmp_path / "cache"
    seconds = iter(range(86_400, 90_000))
    with ChunkCache(root, Memo(None), lambda: next(seconds)) as made:
        file = tmp_path / "file"
        file.write_bytes(CONTENT)
        made.add((blob(CONTENT),), file)
        file.unlink()
        with made.open_blob(blob(OTHER), chunks_of(OTHER, 100_000)) as opened:
            opened.read(3, lambda c: OTHER[c.start : c.start + c.length])
    return root


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    """`run("ls", …)`: what `ocimodel cache ls …` prints."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("OCIMODEL_CACHE", raising=False)
    before = signal.getsignal(signal.SIGTERM)

    def runs(*arguments: str | Path, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["ocimodel", "cache", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        assert end.value.code == code, printed
        return printed.err if code and "--json" not in arguments else printed.out

    yield runs
    signal.signal(signal.SIGTERM, before)


def valid(text: str) -> dict[str, Any]:
    """The object, which is as its schema says."""
    found = json.loads(text)
    name, _, version = found["schema"].removeprefix("ocimodel.").partition("/")
    schema = json.loads((SCHEMAS / f"{name}.{version}.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(found)
    assert set(found) == set(schema["properties"])
    return dict(found)


def test_ls(run: Run, cache: Path) -> None:
    lines = run("ls", "--cache", cache).splitlines()
    assert [line.split()[0] for line in lines] == ["size", "1.0", "300.0", "2"]
    assert lines[1].endswith(f"partial  1970-01-02T00:00:01Z  {blob(OTHER).digest}")
    assert lines[2].endswith(f"whole    1970-01-02T00:00:00Z  {blob(CONTENT).digest}")
    assert lines[3].endswith(f"on disk in {cache}")
    quiet = run("ls", "--cache", cache, "-q").split()
    assert quiet == [blob(OTHER).digest, blob(CONTENT).digest]


def test_ls_json(run: Run, cache: Path) -> None:
    found = valid(run("ls", "--cache", cache, "--json"))
    partial, whole = found["entries"]
    assert found["schema"] == "ocimodel.cache-ls/v1"
    assert found["bytesOnDisk"] == partial["bytesOnDisk"] + whole["bytesOnDisk"]
    assert partial["size"] == len(OTHER) > 3 * partial["bytesOnDisk"] > 0
    assert (partial["complete"], whole["complete"]) == (False, True)
    assert whole["lastUsed"] == "1970-01-02T00:00:00Z"


def test_gc(run: Run, cache: Path) -> None:
    assert "removed 0 blobs" in run("gc", "--cache", cache, "--max-size", "1TiB")
    found = valid(run("gc", "--cache", cache, "--max-size", "200k", "--json"))
    assert [e["digest"] for e in found["removed"]] == [blob(CONTENT).digest]
    assert found["maxSize"] == 200 << 10 >= found["bytesOnDisk"] > 0
    assert found["bytesFreed"] >= len(CONTENT) and found["inUse"] == 0
    assert run("gc", "--cache", cache, "--max-size", "0", "-q").split() == [blob(OTHER).digest]
    assert run("gc", "--cache", cache, "--max-size", "0", "-q") == ""
    assert run("ls", "--cache", cache) == f"0 blobs, 0 B on disk in {cache}\n"


def test_what_is_in_use_is_told(run: Run, cache: Path) -> None:
    with (
        ChunkCache(cache, Memo(None)) as opened,
        opened.open_blob(blob(OTHER), chunks_of(OTHER, 100_000)),
    ):
        assert "1 blob more in use" in run("gc", "--cache", cache, "--max-size", "0")


def test_the_folder_comes_from_where_pull_has_it(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "xdg" / "ocimodel" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(f"cache: {cache}\n")
    assert blob(CONTENT).digest in run("ls")
    monkeypatch.setenv("OCIMODEL_CACHE", str(tmp_path / "none yet"))
    assert run("ls").startswith("0 blobs")
    assert blob(CONTENT).digest in run("ls", "--cache", cache)


def test_what_is_refused(run: Run, cache: Path, tmp_path: Path) -> None:
    assert "no cache is named" in run("ls", code=2)
    for size in ("10X", "-1", "", "1e3", "ten"):
        assert "--max-size" in run("gc", "--cache", cache, "--max-size", size, code=2)
    assert "--max-size" in run("gc", "--cache", cache, code=2)
    assert "is no folder" in run("ls", "--cache", cache / "chunks.db", code=10)
    (cache / "oci-layout").write_text("{}")
    assert "image layout" in run("gc", "--cache", cache, "--max-size", "0", code=10)
    failed = valid(run("gc", "--cache", cache, "--max-size", "0", "--json", code=10))
    assert (failed["verb"], failed["error"]["kind"]) == ("cache-gc", "input")
    assert valid(run("sing", "--json", code=2))["verb"] == "cache-sing"
    assert (cache / "blobs" / "sha256" / blob(CONTENT).digest[7:]).exists()
