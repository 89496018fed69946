"""Disks that are full, read-only, or occupied."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocimodel.errors import OcimodelError, TargetError
from ocimodel.ops.pull import pull
from ocimodel.ops.push import pack
from ocimodel.spec.paths import PARTIAL
from tests.faults.conftest import Bench
from tests.servers.faults import Headers
from tests.trees import MIB, patient, read_tree, settled


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own; skips where this user may not mount."""
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_too_little_space_is_seen_before_anything_is_fetched(bench: Bench, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        bench.target = disk / "target"
        error = bench.refused(TargetError)
        assert "free" in error.hint
        assert bench.proxy.count("GET", "/blobs/") == 0
        assert not bench.target.exists()


def test_a_disk_that_fills_up_meanwhile(bench: Bench, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=6m") as disk:
        bench.target = disk / "target"
        ballast = disk / "ballast"

        class Fill(Headers):
            def after(self, request: object, reply: object) -> object:  # type: ignore[override]
                ballast.write_bytes(bytes(3 * MIB))
                return reply

        bench.proxy.add(Fill({}), method="GET", path="/blobs/")
        error = bench.refused(TargetError)
        assert error.exit_code == 10
        assert "space" in error.hint
        assert "resumes" in error.hint
        ballast.unlink()
        bench.assert_heals()
        assert not (bench.target / PARTIAL).exists()


def test_a_read_only_target(bench: Bench, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=6m,ro") as disk:
        bench.target = disk / "target"
        error = bench.refused(TargetError)
        assert "read-only" in error.hint
    bench.target = tmp_path / "elsewhere"
    bench.assert_heals()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_target_of_somebody_else(bench: Bench) -> None:
    bench.target.mkdir(mode=0o500)
    bench.refused(TargetError)
    bench.target.chmod(0o700)
    bench.assert_heals()


def test_a_target_that_is_a_file(bench: Bench) -> None:
    bench.target.write_bytes(b"mine")
    with pytest.raises(TargetError) as caught:
        bench.pull()
    assert caught.value.exit_code == 10
    assert bench.target.read_bytes() == b"mine"
    bench.target.unlink()
    bench.assert_heals()


def test_a_directory_where_a_file_belongs(bench: Bench) -> None:
    inside = bench.target / "b.bin" / "mine"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"mine")
    with pytest.raises(TargetError) as caught:
        bench.pull()
    assert caught.value.hint
    assert inside.read_bytes() == b"mine"
    inside.unlink()
    inside.parent.rmdir()
    bench.assert_heals()


def test_a_link_in_the_target_leads_nowhere(bench: Bench, tmp_path: Path) -> None:
    """A file is replaced, and not written through the link that stood in its place."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    bench.target.mkdir()
    (bench.target / "b.bin").symlink_to(outside)
    bench.pull()
    assert outside.read_bytes() == b"mine"
    assert not (bench.target / "b.bin").is_symlink()
    assert read_tree(bench.target) == read_tree(bench.model)


def test_a_damaged_part_of_an_earlier_run_is_no_trap(bench: Bench) -> None:
    """What was left to resume from is wrong: fetched once more, and not for ever refused."""
    what = bench.layer("b.bin")
    hexdigest = what.digest.partition(":")[2]
    partial = bench.target / PARTIAL
    partial.mkdir(parents=True)
    (partial / hexdigest).write_bytes(bytes(2 * MIB))
    (partial / f"{hexdigest}.ranges").write_text(f"0 {2 * MIB}\n")
    bench.pull()
    assert read_tree(bench.target) == read_tree(bench.model)


def test_a_full_disk_under_a_layout(bench: Bench, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        reference = f"oci:{disk / 'layout'}:v1"
        with pytest.raises(OcimodelError) as caught:
            pack(bench.model, reference, client=patient())
        assert type(caught.value) is TargetError
        assert caught.value.hint
    # the same path, with room
    pack(bench.model, reference, client=patient())
    pull(reference, bench.target, client=patient())
    assert read_tree(bench.target) == read_tree(bench.model)
    assert settled(bench.target)
