"""Blobs that arrive wrong, late, in pieces, from elsewhere, or not at all."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ocimodel.errors import AuthenticationError, IntegrityError, RegistryError
from ocimodel.spec.modelpack import file_layer
from ocimodel.store.copy import copy
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_blob, put_layers
from tests.faults.conftest import Bench
from tests.servers.canary import Canary
from tests.servers.fault_proxy import FaultProxy
from tests.servers.faults import (
    ChangeStatus,
    Drop,
    FlipByte,
    Headers,
    IgnoreRange,
    Redirect,
    ReplaceBody,
    Reply,
    Request,
    ShortBody,
    Stall,
    Status,
)
from tests.trees import MIB, noise, patient, read_tree, repository, settled


def test_a_flipped_byte_is_an_integrity_error(bench: Bench) -> None:
    bench.proxy.add(FlipByte(2 * MIB), method="GET", path=bench.blob("b.bin"), times=None)
    error = bench.refused(IntegrityError)
    assert bench.layer("b.bin").digest in str(error)
    assert "b.bin" not in settled(bench.target)
    # nothing wrong was kept to resume from
    assert bench.assert_heals().bytes_fetched >= 3 * MIB


@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_a_blob_of_another_size_is_an_integrity_error(bench: Bench, change: int) -> None:
    content = (bench.model / "b.bin").read_bytes() + b"x" * 1000
    body = content[: 3 * MIB + change]
    bench.proxy.add(ReplaceBody(body), method="GET", path=bench.blob("b.bin"), times=None)
    error = bench.refused(IntegrityError)
    assert str(3 * MIB) in str(error)
    assert "b.bin" not in settled(bench.target)
    bench.assert_heals()


@pytest.mark.parametrize("factor", [0.5, 2, 20])
def test_a_manifest_that_lies_about_a_size(empty: Bench, factor: float) -> None:
    """The registry holds the true blob; small and ranged requests both notice."""
    store = MemoryStore()
    digest = put_blob(store, noise(2 * MIB, 5))
    true = put_layers(store, [file_layer("w", "weight", digest, 2 * MIB, 0o644)])
    copy(store, repository(empty.direct), true, tag="true")
    size = int(2 * MIB * factor)
    lying = put_layers(store, [file_layer("w", "weight", digest, size, 0o644)])
    repository(empty.direct).put_manifest(lying)
    repository(empty.direct).tag("v1", lying.descriptor)
    empty.refused(IntegrityError)
    assert settled(empty.target) == set()


def test_a_reset_in_the_middle_is_no_error(bench: Bench) -> None:
    bench.proxy.add(Drop(2 * MIB), method="GET", path=bench.blob("b.bin"))
    bench.pull()
    assert read_tree(bench.target) == read_tree(bench.model)
    # a reset takes what was still under way with it
    n_bytes = sum(r.response_bytes for r in bench.proxy.select("GET", bench.blob("b.bin")))
    assert 3 * MIB <= n_bytes <= 5 * MIB


def test_a_short_body_goes_on_with_a_range(bench: Bench) -> None:
    bench.proxy.add(ShortBody(MIB), method="GET", path=bench.blob("b.bin"))
    result = bench.pull()
    assert read_tree(bench.target) == read_tree(bench.model)
    requests = bench.proxy.select("GET", bench.blob("b.bin"))
    assert [r.headers.get("range", "") for r in requests] == ["", f"bytes={MIB}-{3 * MIB - 1}"]
    # what had come was not fetched again
    assert sum(r.response_bytes for r in requests) == 3 * MIB
    assert result.bytes_fetched >= sum(f.size for f in result.files)


def test_a_body_that_always_breaks_off_is_worth_a_rerun(bench: Bench) -> None:
    bench.proxy.add(ShortBody(0), method="GET", path=bench.blob("b.bin"), times=None)
    error = bench.refused(RegistryError)
    assert "again" in error.hint
    bench.assert_heals()


def test_a_truncated_manifest_is_asked_for_again(bench: Bench) -> None:
    bench.proxy.add(ShortBody(100), method="GET", path="/manifests/")
    bench.pull()
    assert read_tree(bench.target) == read_tree(bench.model)
    bench.proxy.clear()
    bench.proxy.add(Drop(100), method="GET", path="/manifests/", times=None)
    bench.refused(RegistryError)
    assert bench.proxy.count("GET", "/manifests/") == 3


def test_a_range_answered_with_the_whole(bench: Bench) -> None:
    """After a break the endpoint, which knows no ranges, sends all of it again."""
    bench.proxy.add(ShortBody(MIB), method="GET", path=bench.blob("b.bin"))
    bench.proxy.add(IgnoreRange(), method="GET", path="/blobs/", times=None)
    bench.pull()
    assert read_tree(bench.target) == read_tree(bench.model)


@pytest.mark.parametrize(
    "content_range", ["bytes 0-9/10", "bytes 1-5", "nonsense", None, "bytes 0-3145727/*"]
)
def test_a_lying_content_range_is_not_believed(bench: Bench, content_range: str | None) -> None:
    bench.proxy.add(ShortBody(MIB), method="GET", path=bench.blob("b.bin"))
    lie = Headers({"Content-Range": content_range})
    bench.proxy.add(lie, method="GET", path=bench.blob("b.bin"), skip=1, times=None)
    error = bench.refused(RegistryError if content_range != "bytes 0-9/10" else IntegrityError)
    assert bench.layer("b.bin").digest in str(error) or "asked for bytes" in str(error)
    bench.assert_heals()


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("path", ["/manifests/", "/blobs/"])
def test_passing_trouble_is_waited_out(bench: Bench, code: int, path: str) -> None:
    bench.proxy.add(Status(code), method="GET", path=path, times=2)
    bench.pull()
    assert read_tree(bench.target) == read_tree(bench.model)


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_lasting_trouble_is_a_registry_error(bench: Bench, code: int) -> None:
    bench.proxy.add(Status(code), method="GET", path="/blobs/", times=None)
    error = bench.refused(RegistryError)
    assert isinstance(error, RegistryError)
    assert error.status == code
    bench.assert_heals()


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize("path", ["/manifests/", "/blobs/"])
def test_a_refusal_is_an_authentication_error(bench: Bench, code: int, path: str) -> None:
    bench.proxy.add(Status(code), method="GET", path=path, times=None)
    error = bench.refused(AuthenticationError)
    assert f"login {bench.proxy.host}" in error.hint
    # no use in asking again and again
    assert bench.proxy.count("GET", "/manifests/") == 1
    bench.assert_heals()


def test_a_stalled_blob_is_given_up_and_resumed(bench: Bench) -> None:
    stall = Stall(threading.Event(), after_bytes=MIB)
    bench.proxy.add(stall, method="GET", path=bench.blob("b.bin"))
    bench.pull(patient(timeout_s=0.5))
    assert read_tree(bench.target) == read_tree(bench.model)


def test_a_stall_for_good_is_a_registry_error(bench: Bench) -> None:
    bench.proxy.add(Stall(threading.Event()), method="GET", path=bench.blob("b.bin"), times=None)
    bench.refused(RegistryError, patient(timeout_s=0.3, n_attempts=2))
    bench.assert_heals()


@dataclass(frozen=True)
class Presigned(Redirect):
    """Redirects each blob to the canary under a URL that differs each time."""

    url: str = ""
    bodies: dict[str, bytes] = field(default_factory=dict)

    def before(self, request: Request) -> Reply | None:
        digest = re.sub(r".*/blobs/", "", request.path)
        return Redirect(f"{self.url}/{digest}?X-Signature=secret").before(request)


def serve_blobs(bench: Bench, canary: Canary) -> None:
    for path in ("config.json", "a.bin", "b.bin"):
        canary.serve(f"/{bench.layer(path).digest}", (bench.model / path).read_bytes())


def test_a_redirect_to_storage_gets_no_credential(bench: Bench, canary: Canary) -> None:
    serve_blobs(bench, canary)
    bench.proxy.add(Presigned(canary.url), method="GET", path="/blobs/", times=None)
    bench.pull(patient(environ={"OCIMODEL_USERNAME": "alice", "OCIMODEL_PASSWORD": "secret"}))
    assert read_tree(bench.target) == read_tree(bench.model)
    assert len(canary.requests) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404])
def test_a_presigned_url_is_kept_and_renewed(
    bench: Bench, fault_proxy: Callable[..., FaultProxy], code: int
) -> None:
    """Asked for once per blob; when it has run out, asked for once more."""
    storage = fault_proxy(bench.registry)
    signed = Redirect(lambda path: f"{storage.url}{path}?X-Signature={bench.proxy.count('GET')}")
    bench.proxy.add(signed, method="GET", path="/blobs/", times=None)
    what = bench.layer("b.bin")
    content = (bench.model / "b.bin").read_bytes()
    store = repository(bench.reference)

    def read(start: int) -> bytes:
        with store.open(what, start, 50) as reader:
            buffer = memoryview(bytearray(50))
            return bytes(buffer[: reader.readinto(buffer)])

    for start in (0, 100, 200):
        assert read(start) == content[start : start + 50]
    assert bench.proxy.count("GET", "/blobs/") == 1
    storage.add(Status(code), method="GET", path="X-Signature=1")
    assert read(300) == content[300:350]
    assert bench.proxy.count("GET", "/blobs/") == 2
    assert storage.count("GET", "X-Signature=2") == 1


def test_wrong_bytes_behind_a_redirect(bench: Bench, canary: Canary) -> None:
    serve_blobs(bench, canary)
    canary.serve(f"/{bench.layer('b.bin').digest}", noise(3 * MIB, 77))
    bench.proxy.add(Presigned(canary.url), method="GET", path="/blobs/", times=None)
    bench.refused(IntegrityError)
    bench.assert_heals()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_to_another_scheme_is_refused(bench: Bench, target: str) -> None:
    bench.proxy.add(Redirect(target), method="GET", path="/blobs/", times=None)
    error = bench.refused(RegistryError, hint=False)
    assert target.partition(":")[0] in str(error)


def test_a_redirect_loop_ends(bench: Bench) -> None:
    bench.proxy.add(Redirect(lambda path: path), method="GET", path="/blobs/", times=None)
    error = bench.refused(RegistryError, hint=False)
    assert "redirects" in str(error)
    bench.assert_heals()


def test_an_unasked_206_is_no_success(bench: Bench) -> None:
    """A whole blob asked for, and a part announced as if that were enough."""
    bench.proxy.add(ChangeStatus(200, 206), method="GET", path=bench.blob("b.bin"), times=None)
    bench.proxy.add(
        ReplaceBody((bench.model / "b.bin").read_bytes()[:MIB]),
        method="GET",
        path=bench.blob("b.bin"),
        times=None,
    )
    bench.refused(IntegrityError)
    bench.assert_heals()
