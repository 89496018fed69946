"""trace, push --profile and pull --order: a model fetched in the order in which it is read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import ocimodel
from ocimodel.errors import InputError, NotFoundError, UsageError
from ocimodel.events import BlobFinished, Event
from ocimodel.spec.profile import parse_profile
from tests.indexed import safetensors
from tests.mounts import need_fuse
from tests.trees import noise, write_tree

NAMES = ("a.safetensors", "b.safetensors", "config.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = {
        name: safetensors(
            {f"{name}.w": ("U8", [300_000], noise(300_000 + i)[:300_000])}, {}
        ).content
        for i, name in enumerate(NAMES[:2])
    }
    return write_tree(tmp_path / "model", {**weights, "config.json": b'{"model_type": "x"}'})


def fetched(reference: str, directory: Path, order: str) -> list[str]:
    """The files in the order in which they were finished, by one stream."""
    seen: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, BlobFinished) and event.name in NAMES:
            seen.append(event.name)

    ocimodel.pull(reference, directory, order=order, concurrency=1, observer=observe)
    return seen


def test_config_first(model: Path, tmp_path: Path) -> None:
    reference = f"oci:{tmp_path}/layout:v1"
    ocimodel.pack(model, reference)
    assert fetched(reference, tmp_path / "plain", "") == list(NAMES)
    first = fetched(reference, tmp_path / "out", "config-first")
    assert first == ["config.json", "a.safetensors", "b.safetensors"]


def test_a_profile_in_the_artifact(model: Path, tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    ranges = [["b.safetensors", 0, 10], ["gone", 0, 5], ["config.json", 5, 1000]]
    profile.write_text(json.dumps({"version": 1, "ranges": ranges}))
    reference = f"oci:{tmp_path}/layout:v1"
    ocimodel.pack(model, reference, profiles={"serve": profile})
    assert fetched(reference, tmp_path / "out", "serve") == [
        "b.safetensors",
        "config.json",
        "a.safetensors",
    ]
    with pytest.raises(InputError, match="no access profile 'other'") as caught:
        ocimodel.pull(reference, tmp_path / "other", order="other")
    assert "serve" in caught.value.hint
    assert not (tmp_path / "other").exists()


def test_a_profile_of_another_model(model: Path, tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_text('{"version":1,"ranges":[["gone",0,5]]}')
    with pytest.raises(InputError, match="none of the model's files"):
        ocimodel.pack(model, f"oci:{tmp_path}/layout:v1", profiles={"x": profile})
    with pytest.raises(InputError, match="cannot read"):
        ocimodel.pack(model, f"oci:{tmp_path}/layout:v1", profiles={"x": tmp_path / "none"})


def test_what_a_model_gives_is_recorded(model: Path, tmp_path: Path) -> None:
    from ocimodel.lazy.recorder import Recorder

    reference = f"oci:{tmp_path}/layout:v1"
    ocimodel.pack(model, reference)
    recorder = Recorder()
    with ocimodel.open(reference, recorder=recorder) as opened:
        opened.open("config.json").read()
        list(opened.load_bytes(["b.safetensors.w"]))
    paths = [path for path, _, _ in recorder.ranges()]
    assert paths == ["config.json", "b.safetensors"]
    assert recorder.ranges()[1][2] == 300_000


def test_a_program_is_traced(model: Path, tmp_path: Path) -> None:
    need_fuse()
    reference = f"oci:{tmp_path}/layout:v1"
    ocimodel.pack(model, reference)
    script = "import sys; [open(f'{sys.argv[1]}/{n}', 'rb').read() for n in sys.argv[2:]]"
    command = [sys.executable, "-c", script, "{}", "b.safetensors", "config.json"]
    # the second time from the cache, where finished files lie: they are traced all the same
    for profile in (tmp_path / "1.json", tmp_path / "2.json"):
        done = ocimodel.trace(reference, command, profile, cache=tmp_path / "cache")
        assert done.returncode == 0
        paths = [path for path, _, _ in parse_profile(profile.read_bytes())]
        assert list(dict.fromkeys(paths)) == ["b.safetensors", "config.json"]
        assert done.n_bytes == sum((model / p).stat().st_size for p in set(paths))
    ocimodel.pack(model, reference, profiles={"serve": profile}, force_tag=True)
    assert fetched(reference, tmp_path / "out", "serve")[:2] == ["b.safetensors", "config.json"]


def test_programs_that_cannot_be_traced(model: Path, tmp_path: Path) -> None:
    reference = f"oci:{tmp_path}/layout:v1"
    ocimodel.pack(model, reference)
    with pytest.raises(UsageError, match="where it wants the model"):
        ocimodel.trace(reference, ["true"], tmp_path / "p.json")
    need_fuse()
    with pytest.raises(NotFoundError, match="cannot run"):
        ocimodel.trace(reference, ["/none", "{}"], tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()
    failed = ocimodel.trace(reference, ["sh", "-c", "exit 3", "{}"], tmp_path / "p.json")
    assert (failed.returncode, failed.n_ranges) == (3, 0)
