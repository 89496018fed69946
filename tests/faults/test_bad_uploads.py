"""Uploads that are refused, cut, sent elsewhere, or want another rung of the ladder."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ocimodel.errors import AuthenticationError, NotFoundError, OcimodelError, RegistryError
from ocimodel.ops.push import PushResult, push
from ocimodel.registry.transport import ClientOptions
from tests.faults.conftest import Bench
from tests.servers import quirks
from tests.servers.canary import Canary
from tests.servers.certs import Certs
from tests.servers.fault_proxy import FaultProxy
from tests.servers.faults import (
    Fault,
    ForeignLocation,
    Headers,
    RefuseMidUpload,
    ResetBefore,
    Status,
)
from tests.servers.registry import DockerRegistry
from tests.servers.token_server import TokenServer
from tests.trees import MIB, Waits, noise, patient, read_tree, with_login, write_tree

UPLOADS = "/blobs/uploads/"


def send(bench: Bench, options: ClientOptions | None = None) -> PushResult:
    return push(bench.model, bench.reference, client=options or patient(), observer=bench.notices)


def assert_pushed(bench: Bench) -> None:
    """All of it is in the registry, and comes back."""
    bench.proxy.clear()
    bench.pull()
    assert read_tree(bench.target) == read_tree(bench.model)


def refused(
    bench: Bench, expected: type[OcimodelError], options: ClientOptions | None = None
) -> OcimodelError:
    """A push that must end in this error, without a tag; the next one succeeds."""
    with pytest.raises(OcimodelError) as caught:
        send(bench, options)
    assert isinstance(caught.value, expected), repr(caught.value)
    assert caught.value.exit_code == expected.exit_code
    with pytest.raises(NotFoundError):
        bench.direct_manifest()
    bench.proxy.clear()
    send(bench)
    assert_pushed(bench)
    return caught.value


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_passing_trouble_is_waited_out(empty: Bench, code: int, method: str) -> None:
    waits = Waits()
    path = UPLOADS if method == "POST" else "digest="
    empty.proxy.add(Status(code, {"Retry-After": "7"}), method=method, path=path)
    send(empty, patient(sleep=waits))
    assert waits.asked == [7.0]
    assert_pushed(empty)


@pytest.mark.parametrize("code", [429, 500, 503])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_lasting_trouble_is_a_registry_error(empty: Bench, code: int, method: str) -> None:
    empty.proxy.add(Status(code), method=method, path=UPLOADS, times=None)
    error = refused(empty, RegistryError)
    assert isinstance(error, RegistryError)
    assert error.status == code
    assert error.hint


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_huge_retry_after_is_left_to_a_person(empty: Bench, method: str) -> None:
    waits = Waits()
    empty.proxy.add(Status(429, {"Retry-After": "86400"}), method=method, path=UPLOADS, times=None)
    error = refused(empty, RegistryError, patient(sleep=waits))
    assert waits.asked == []
    assert "86400" in str(error)


def test_attempts_do_not_multiply(empty: Bench) -> None:
    empty.proxy.add(Status(503), method="POST", path=UPLOADS, times=None)
    with pytest.raises(RegistryError):
        push(empty.model, empty.reference, client=patient(), concurrency=1)
    assert empty.proxy.count("POST") == 3


@pytest.mark.parametrize("code", [401, 403])
def test_a_refusal_is_an_authentication_error(empty: Bench, code: int) -> None:
    empty.proxy.add(Status(code), method="POST", path=UPLOADS, times=None)
    error = refused(empty, AuthenticationError)
    assert "login" in error.hint


def test_a_repository_that_is_not_there(empty: Bench) -> None:
    """ECR wants it to be created first."""
    empty.proxy.add(Status(404), method="POST", path=UPLOADS, times=None)
    refused(empty, NotFoundError)


@pytest.mark.parametrize("code", [413, 416, 404, 405])
def test_a_refused_put_takes_the_next_rung(empty: Bench, code: int) -> None:
    empty.proxy.add(Status(code), method="PUT", path=UPLOADS + ".*digest=", times=2)
    send(empty)
    assert_pushed(empty)


@pytest.mark.parametrize("after", [0, MIB])
def test_a_reset_body_starts_over(empty: Bench, after: int) -> None:
    empty.proxy.add(ResetBefore(after), method="PUT", path=UPLOADS)
    send(empty)
    assert_pushed(empty)


def test_a_front_that_resets_every_put(empty: Bench) -> None:
    empty.proxy.apply(
        [
            Fault(
                ResetBefore(MIB // 2),
                method="PUT",
                path=UPLOADS,
                times=None,
                when=lambda request: request.length() > MIB // 2,
            )
        ]
    )
    send(empty)
    assert empty.proxy.count("PATCH") >= 1
    assert_pushed(empty)


@pytest.mark.parametrize("after", [0, MIB])
def test_a_body_that_is_always_reset_ends(empty: Bench, after: int) -> None:
    empty.proxy.add(ResetBefore(after), method="PUT|PATCH", path=UPLOADS, times=None)
    refused(empty, RegistryError)


@pytest.mark.parametrize(
    "faults",
    [
        quirks.ghcr(),
        quirks.ecr(),
        quirks.gar(),
        quirks.acr(limit=MIB // 2),
        [*quirks.acr(limit=MIB // 2), *quirks.ecr()],
        quirks.quay(),
        # both ways refused for their size: chunks are left
        [
            *quirks.acr(limit=MIB // 2),
            Fault(
                Status(413),
                method="PATCH",
                path=UPLOADS,
                times=None,
                when=lambda request: "content-range" not in request.headers,
            ),
        ],
    ],
    ids=["ghcr", "ecr", "gar", "acr", "acr-ecr", "quay", "chunks"],
)
def test_quirks_of_public_registries(empty: Bench, faults: Sequence[Fault]) -> None:
    empty.proxy.apply(faults)
    send(empty)
    assert_pushed(empty)


def test_a_minimum_chunk_length_is_kept(empty: Bench) -> None:
    write_tree(empty.model, {"big.bin": noise(25 * MIB, 9)})
    minimum = 10 * MIB
    empty.proxy.add(
        Headers({"OCI-Chunk-Min-Length": str(minimum)}), method="POST", path=UPLOADS, times=None
    )
    empty.proxy.apply(quirks.acr(limit=MIB // 2))
    whole = Fault(
        Status(413),
        method="PATCH",
        path=UPLOADS,
        times=None,
        when=lambda request: "content-range" not in request.headers,
    )
    empty.proxy.apply([whole])
    send(empty)
    sent = [e.request_bytes for e in empty.proxy.select("PATCH") if "content-range" in e.headers]
    assert sent.count(minimum) == 2
    assert 5 * MIB in sent
    assert_pushed(empty)


def test_a_foreign_location_gets_the_bytes_and_no_credential(
    empty: Bench,
    registry_htpasswd: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    canary: Canary,
    tmp_path: Path,
) -> None:
    proxy = fault_proxy(registry_htpasswd)
    empty.proxy = proxy
    proxy.add(ForeignLocation(canary.url), method="POST", path=UPLOADS, times=None)
    options = with_login(tmp_path / "auth.json", {proxy.host: ("alice", "secret")})
    # the canary says 201 and keeps nothing, so that the manifest is refused
    with pytest.raises(RegistryError):
        send(empty, options)
    assert sum(seen.body_bytes for seen in canary.requests) >= 4 * MIB
    canary.assert_clean()
    proxy.clear()
    send(empty, options)
    empty.pull(options)
    assert read_tree(empty.target) == read_tree(empty.model)


def test_a_token_that_expires_in_the_middle_of_an_upload(
    empty: Bench,
    registry_token: DockerRegistry,
    token_server: TokenServer,
    fault_proxy: Callable[..., FaultProxy],
    tmp_path: Path,
) -> None:
    """401 to a body: a fresh token, a new upload, all of it once more."""
    proxy = fault_proxy(registry_token)
    empty.proxy = proxy
    challenge = f'Bearer realm="{token_server.realm}",service="{token_server.service}"'
    expired = {"WWW-Authenticate": challenge + ',error="invalid_token"'}
    proxy.add(RefuseMidUpload(MIB, 401, expired), method="PUT", path=UPLOADS)
    options = with_login(tmp_path / "auth.json", {proxy.host: ("alice", "secret")})
    before = token_server.count()
    push(empty.model, empty.reference, client=options, concurrency=1)
    assert token_server.count() == before + 2
    assert proxy.count("POST") == 5
    empty.pull(options)
    assert read_tree(empty.target) == read_tree(empty.model)


@pytest.mark.parametrize("status", [401, 413])
def test_an_early_answer_over_tls(
    empty: Bench,
    docker_registry: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    certs: Certs,
    status: int,
) -> None:
    """Refused with the body still coming: an error or a retry, and no wait for a timeout."""
    proxy = fault_proxy(docker_registry, tls=certs)
    empty.proxy = proxy
    headers = {"WWW-Authenticate": "Basic realm=x"} if status == 401 else {}
    proxy.add(RefuseMidUpload(MIB // 2, status, headers), method="PUT", path=UPLOADS)
    options = patient(
        ca_file=certs.ca, environ={"OCIMODEL_USERNAME": "a", "OCIMODEL_PASSWORD": "b"}
    )
    push(empty.model, empty.reference, client=options)
    proxy.clear()
    empty.pull(options)
    assert read_tree(empty.target) == read_tree(empty.model)


def test_a_body_on_a_fresh_tls_connection(
    empty: Bench,
    docker_registry: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    certs: Certs,
) -> None:
    """The session tickets of TLS 1.3 are no early answer."""
    proxy = fault_proxy(docker_registry, tls=certs)
    proxy.add(Headers({"Connection": "close"}), method="POST|HEAD", times=None)
    assert ssl.HAS_TLSv1_3
    empty.proxy = proxy
    push(empty.model, empty.reference, client=patient(ca_file=certs.ca, n_attempts=1))
    empty.pull(patient(ca_file=certs.ca))
    assert read_tree(empty.target) == read_tree(empty.model)


def test_a_manifest_that_is_refused(empty: Bench) -> None:
    body = b'{"errors":[{"code":"MANIFEST_INVALID","message":"no \\u001b[31mthanks"}]}'
    empty.proxy.add(Status(400, body=body), method="PUT", path="/manifests/", times=None)
    error = refused(empty, RegistryError)
    assert "MANIFEST_INVALID" in str(error)
    assert "\x1b" not in str(error)


def test_a_lost_answer_to_the_tag_is_harmless(empty: Bench) -> None:
    empty.proxy.add(Status(502), method="PUT", path="/manifests/v1", times=1)
    send(empty)
    assert_pushed(empty)


def test_a_file_that_changes_while_it_is_sent(empty: Bench) -> None:
    """The registry refuses the digest; the error names the source and not the network."""
    path = empty.model / "b.bin"

    class Rewrite(Headers):
        def before(self, request: object) -> None:  # type: ignore[override]
            path.write_bytes(noise(3 * MIB, 4321))

    empty.proxy.add(Rewrite({}), method="POST", path=UPLOADS, times=1)
    with pytest.raises(OcimodelError) as caught:
        push(empty.model, empty.reference, client=patient(), concurrency=1)
    assert caught.value.exit_code in (6, 10)
    with pytest.raises(NotFoundError):
        empty.direct_manifest()
    send(empty)
    assert_pushed(empty)
