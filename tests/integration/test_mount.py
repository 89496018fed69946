"""Models from a real registry at a directory, read by programs that know nothing of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from ocimodel.ops.push import push
from ocimodel.store.copy import copy
from ocimodel.store.memory import MemoryStore
from tests.indexed import put_indexed
from tests.mounts import ROOT, Mount, mounted, need_fuse, until
from tests.servers.models import generated_model
from tests.servers.registry import DockerRegistry
from tests.trees import MIB, noise, patient, read_tree, repository, write_tree

SCHEMA = json.loads((ROOT / "schemas/cli/mount.v1.schema.json").read_text())
BIG = 40 * MIB


@pytest.fixture(scope="module", autouse=True)
def fuse() -> None:
    need_fuse()


@pytest.fixture(scope="module")
def minilm_reference(docker_registry: DockerRegistry, minilm_dir: Path) -> str:
    reference = f"{docker_registry.host}/mount/minilm:v1"
    push(minilm_dir, reference, client=patient())
    return reference


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of several stretches, a program, files in folders, and an empty folder."""
    root = tmp_path_factory.mktemp("tree") / "model"
    write_tree(
        root,
        {
            "config.json": b"{}",
            "empty.txt": b"",
            "code/run.sh": b"#!/bin/sh\n",
            "code/deep/é.txt": b"x" * 5000,
            "nothing/": b"",
        },
    )
    (root / "code/run.sh").chmod(0o755)
    generated_model(root / "model.safetensors", BIG, 30, seed=9)
    return root


@pytest.fixture(scope="module")
def reference(docker_registry: DockerRegistry, tree: Path) -> str:
    name = f"{docker_registry.host}/mount/tree:v1"
    push(tree, name, client=patient())
    return name


@pytest.fixture(scope="module")
def shared(reference: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mount for tests that only read; nothing is fetched but what they read."""
    with mounted(reference, tmp_path_factory.mktemp("shared"), "--no-complete") as mount:
        yield mount


def test_minilm_is_what_was_pushed(minilm_reference: str, minilm_dir: Path, tmp_path: Path) -> None:
    """Read by diff, and by the real safetensors, which maps the file into memory."""
    with mounted(minilm_reference, tmp_path) as mount:
        weights = Path("model.safetensors")
        with (
            safe_open(mount.path / weights, "numpy") as found,
            safe_open(minilm_dir / weights, "numpy") as wanted,
        ):
            assert list(found.keys()) == list(wanted.keys())
            for name in wanted.keys():  # noqa: SIM118 - it is no mapping
                assert numpy.array_equal(found.get_tensor(name), wanted.get_tensor(name)), name
        subprocess.run(["diff", "-r", minilm_dir, mount.path], check=True)
        document = mount.end()
    jsonschema.validate(document, SCHEMA)
    assert document["reference"] == minilm_reference
    assert document["mode"] == "lazy"
    # single flight: whoever comes first fetches a chunk, reader or completion
    assert document["bytesFetched"] == document["bytesTotal"]


def test_the_tree_is_the_same(shared: Mount, tree: Path) -> None:
    assert read_tree(shared.path) == read_tree(tree)
    for wanted in tree.rglob("*"):
        found = (shared.path / wanted.relative_to(tree)).stat()
        assert stat.S_IFMT(found.st_mode) == stat.S_IFMT(wanted.stat().st_mode)
        is_program = wanted.is_dir() or wanted.stat().st_mode & stat.S_IXUSR
        assert stat.S_IMODE(found.st_mode) == (0o555 if is_program else 0o444), wanted
        assert found.st_mtime == 0
        assert wanted.is_dir() or found.st_size == wanted.stat().st_size


def test_each_file_has_one_number(shared: Mount) -> None:
    listed = {entry.name: entry.inode() for entry in os.scandir(shared.path)}
    assert listed == {name: (shared.path / name).stat().st_ino for name in listed}
    assert len(set(listed.values())) == len(listed)
    assert os.statvfs(shared.path).f_bavail == 0


def test_a_long_directory_is_listed_to_its_end(
    docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    names = {f"{'n' * 100}-{number}" for number in range(120)}
    model = write_tree(tmp_path / "model", dict.fromkeys(names, b"x"))
    name = f"{docker_registry.host}/mount/long:v1"
    push(model, name, client=patient())
    with mounted(name, tmp_path / "work") as mount:
        assert {entry.name for entry in mount.path.iterdir()} == names


WRITES = {
    "open": lambda root: (root / "config.json").open("r+b"),
    "truncate": lambda root: os.truncate(root / "config.json", 0),
    "make": lambda root: (root / "new").touch(),
    "make a directory": lambda root: (root / "new").mkdir(),
    "remove": lambda root: (root / "config.json").unlink(),
    "rename": lambda root: (root / "config.json").rename(root / "b"),
    "change the mode": lambda root: (root / "config.json").chmod(0o777),
    "link": lambda root: (root / "link").symlink_to("config.json"),
}


@pytest.mark.parametrize("name", WRITES)
def test_nothing_can_be_written(shared: Mount, name: str) -> None:
    with pytest.raises(OSError) as caught:
        WRITES[name](shared.path)
    assert caught.value.errno == errno.EROFS


def test_what_is_not_there(shared: Mount) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            (shared.path / "absent").stat()
    with pytest.raises(NotADirectoryError):
        (shared.path / "config.json/x").stat()


@settings(max_examples=200, deadline=None)
@given(start=st.integers(0, BIG + MIB), length=st.integers(0, 3 * MIB))
def test_random_reads(shared: Mount, tree: Path, start: int, length: int) -> None:
    found, wanted = (os.open(at / "model.safetensors", os.O_RDONLY) for at in (shared.path, tree))
    try:
        assert os.pread(found, length, start) == os.pread(wanted, length, start)
    finally:
        os.close(found)
        os.close(wanted)


def test_only_what_is_read_is_fetched(reference: str, tmp_path: Path) -> None:
    with mounted(reference, tmp_path, "--no-complete") as mount:
        (mount.path / "code/run.sh").read_bytes()
        document = mount.end()
    assert document["bytesFetched"] == len(b"#!/bin/sh\n")
    assert document["waited"] == 1
    assert document["bytesCompleted"] == 0


def test_the_ready_file_comes_and_goes(reference: str, tmp_path: Path) -> None:
    with mounted(reference, tmp_path) as mount:
        said = json.loads(mount.ready.read_text())
        assert said["pid"] == mount.process.pid
        assert said["directory"] == str(mount.path)
        assert said["mode"] == "lazy"
        until(lambda: "mounted" in mount.errors, "a word for people")
        assert mount.end(signal.SIGINT)["digest"] == said["digest"]
    assert not [p for p in tmp_path.iterdir() if "ready" in p.name]
    assert list(mount.path.iterdir()) == []


def test_stats_while_it_runs(reference: str, tmp_path: Path) -> None:
    with mounted(reference, tmp_path) as mount:
        stats = mount.complete()
        assert {"schema": "ocimodel.mount/v1", **stats}.keys() >= set(SCHEMA["required"])
        assert stats["bytesFetched"] == stats["bytesTotal"] > BIG
        assert mount.process.poll() is None


def test_it_ends_when_somebody_unmounts_it(reference: str, tmp_path: Path) -> None:
    with mounted(reference, tmp_path) as mount:
        assert (mount.path / "config.json").read_bytes() == b"{}"
        subprocess.run(["umount", mount.path], check=True)
        mount.ended()


def test_unmounted_under_load(reference: str, tree: Path, tmp_path: Path) -> None:
    """Who has a file open reads it to its end."""
    count = "import sys; f = open(sys.argv[1], 'rb'); print('open', flush=True); input()\n"
    count += "import hashlib; print(hashlib.sha256(f.read()).hexdigest())"
    argv = [sys.executable, "-c", count]
    with (
        mounted(reference, tmp_path, "--no-complete") as mount,
        subprocess.Popen(
            [*argv, mount.path / "model.safetensors"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as reader,
    ):
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        mount.process.send_signal(signal.SIGTERM)
        until(lambda: not os.path.ismount(mount.path), "detached")
        found, _ = reader.communicate("\n")
        wanted = subprocess.run(
            ["sha256sum", tree / "model.safetensors"], capture_output=True, text=True, check=True
        )
        assert found.strip() == wanted.stdout.split()[0]
        mount.ended()


def test_a_second_signal_ends_it_at_once(reference: str, tmp_path: Path) -> None:
    """Though somebody has a file open, who then gets errors, not wrong bytes."""
    with (
        mounted(reference, tmp_path, "--no-complete") as mount,
        (mount.path / "model.safetensors").open("rb", buffering=0) as file,
    ):
        assert len(file.read(100)) == 100
        mount.process.send_signal(signal.SIGTERM)
        until(lambda: not os.path.ismount(mount.path), "detached")
        assert len(file.read(100)) == 100
        mount.end()
        file.seek(20 * MIB)
        with pytest.raises(OSError) as caught:
            file.read(100)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def test_two_processes_with_one_cache(reference: str, tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with (
        mounted(reference, tmp_path / "a", "--cache", cache) as a,
        mounted(reference, tmp_path / "b", "--cache", cache) as b,
    ):
        for mount in (a, b):
            assert read_tree(mount.path) == read_tree(tree)
            mount.complete()
        both = [a.end(), b.end()]
    total = both[0]["bytesTotal"]
    assert total <= sum(one["bytesFetched"] for one in both) <= 1.05 * total


def test_the_kernel_reads_finished_files_by_itself(
    reference: str, tree: Path, tmp_path: Path
) -> None:
    with mounted(reference, tmp_path, "--cache", tmp_path / "cache") as mount:
        mount.complete()
        name = "model.safetensors"
        blobs = tmp_path / "cache/blobs/sha256"
        until(lambda: any(p.stat().st_size >= BIG for p in blobs.iterdir()), "published")
        until(lambda: (mount.path / name).read_bytes() and True, "read")
        before = mount.stats()["bytesCached"]
        if before >= BIG:
            pytest.skip("passthrough takes Linux 6.9 and CAP_SYS_ADMIN")
        assert (mount.path / name).read_bytes() == (tree / name).read_bytes()
        assert mount.stats()["bytesCached"] == before


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (lambda p: p.rmdir(), 2, "no directory"),
        (lambda p: (p.rmdir(), p.write_text("x")), 2, "is no directory"),
        (lambda p: (p / "x").touch(), 10, "not empty"),
    ],
    ids=["missing", "file", "occupied"],
)
def test_places_where_it_cannot_be(
    reference: str, tmp_path: Path, make: object, code: int, said: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    make(place)  # type: ignore[operator]
    argv = [sys.executable, "-m", "ocimodel", "mount", reference, str(place)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code
    assert said in done.stderr


def test_a_foreign_artifact_is_read_whole_or_refused(
    docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    """Without an index of chunks."""
    store, content = MemoryStore(), noise(9 * MIB)
    manifest = put_indexed(store, {"w.bin": content}, has_index=False)
    name = f"{docker_registry.host}/mount/foreign:v1"
    there = repository(name)
    copy(store, there, manifest)
    there.tag("v1", manifest.descriptor)
    with mounted(name, tmp_path / "a") as mount:
        assert (mount.path / "w.bin").read_bytes() == content
        assert mount.end()["mode"] == "whole"
    with mounted(name, tmp_path / "b", "--require-lazy", waits=False) as mount:
        assert mount.process.wait(60) == 5
        assert "lazily" in mount.errors


def test_in_the_background(reference: str, tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    argv = [sys.executable, "-m", "ocimodel", "mount", reference, str(place), "--json", "--daemon"]
    argv += ["--ready-file", str(tmp_path / "ready")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    jsonschema.validate(json.loads(done.stdout), SCHEMA)
    pid = json.loads((tmp_path / "ready").read_text())["pid"]
    try:
        assert read_tree(place) == read_tree(tree)
    finally:
        os.kill(pid, signal.SIGTERM)
    until(lambda: not (tmp_path / "ready").exists(), "ended")
    assert not os.path.ismount(place)


def test_a_background_that_fails_says_so(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    name = f"{docker_registry.host}/mount/absent:v1"
    place = tmp_path / "place"
    place.mkdir()
    argv = [sys.executable, "-m", "ocimodel", "mount", name, str(place), "--daemon"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 3
    assert "error:" in done.stderr


# reads a mount from beside it: for places that only its own name space has
SCRIPT = """
"$1" -m ocimodel mount "$2" "$3/place" --ready-file "$3/ready" & pid=$!
while [ ! -e "$3/ready" ] && kill -0 $pid; do sleep 0.02; done
cp -r "$3/place" "$3/copied"; kill $pid; wait $pid
"""


def test_without_rights_in_a_user_namespace(reference: str, tree: Path, tmp_path: Path) -> None:
    """No capability of the machine; the mount is seen in that name space only."""
    prefix = ["unshare", "-Ur", "-m"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no user namespaces")
    (tmp_path / "place").mkdir()
    argv = [*prefix, "sh", "-c", SCRIPT, "sh", sys.executable, reference, tmp_path]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert read_tree(tmp_path / "copied") == read_tree(tree)


def test_by_fusermount3(reference: str, tree: Path) -> None:
    """As on a desktop: nobody may mount, but for this program, and all may open /dev/fuse."""
    caps = "+dac_override,+dac_read_search"
    setpriv = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    setpriv += f" --inh-caps {caps} --ambient-caps {caps}"
    begin = 'mknod "$3/fuse" c 10 229; chmod 666 "$3/fuse"; mount --bind "$3/fuse" /dev/fuse; '
    begin += f'exec {setpriv} sh -c "$0" sh "$@"'
    if os.geteuid() or not all(map(shutil.which, ("fusermount3", "setpriv", "unshare"))):
        pytest.skip("takes root to become nobody, and fusermount3, setpriv, unshare")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "place").mkdir()
        for path in (work, work / "place"):
            os.chown(path, 65534, 65534)
        argv = ["unshare", "-m", "sh", "-c", begin, SCRIPT, sys.executable, reference, work]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
            env={**os.environ, "HOME": folder, "XDG_CACHE_HOME": folder},
        )
        assert done.returncode == 0, done.stderr
        assert read_tree(work / "copied") == read_tree(tree)
