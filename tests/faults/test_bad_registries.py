"""Registries that cannot be reached, ask for too much, or say things that make no sense."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable

import pytest

from ocimodel.errors import AuthenticationError, OcimodelError, RegistryError
from ocimodel.ops.browse import inspect, ls
from ocimodel.ops.pull import pull
from ocimodel.registry import control
from tests.faults.conftest import Bench
from tests.servers.canary import Canary
from tests.servers.certs import Certs
from tests.servers.fault_proxy import FaultProxy
from tests.servers.faults import Headers, Redirect, ReplaceBody, Status
from tests.servers.process import free_port
from tests.trees import Waits, patient, read_tree, with_login


def test_retry_after_in_seconds(bench: Bench) -> None:
    waits = Waits()
    bench.proxy.add(Status(429, {"Retry-After": "13"}), method="GET", path="/manifests/")
    bench.pull(patient(sleep=waits))
    assert waits.asked == [13.0]
    assert any("trying again in 13" in text for text in bench.notices.texts)


def test_retry_after_as_a_date(bench: Bench) -> None:
    waits = Waits()
    moment = email.utils.formatdate(time.time() + 30, usegmt=True)
    bench.proxy.add(Status(503, {"Retry-After": moment}), method="GET", path="/blobs/")
    bench.pull(patient(sleep=waits))
    assert len(waits.asked) == 1
    assert 10 < waits.asked[0] <= 30


@pytest.mark.parametrize("value", ["-5", "soon", "1e9", "", "Mon, 99 Foo 2020 99:99:99 GMT"])
def test_retry_after_that_makes_no_sense(bench: Bench, value: str) -> None:
    waits = Waits()
    bench.proxy.add(Status(429, {"Retry-After": value}), method="GET", path="/manifests/")
    bench.pull(patient(sleep=waits))
    assert len(waits.asked) == 1
    assert 0 <= waits.asked[0] < 60


def test_a_huge_retry_after_is_left_to_a_person(bench: Bench) -> None:
    waits = Waits()
    bench.proxy.add(Status(429, {"Retry-After": "86400"}), method="GET", path="/manifests/")
    error = bench.refused(RegistryError, patient(sleep=waits))
    assert waits.asked == []
    assert "86400" in str(error)
    assert "later" in error.hint
    bench.assert_heals()


def refuse(reference: str, bench: Bench, **changes: object) -> OcimodelError:
    with pytest.raises(OcimodelError) as caught:
        pull(reference, bench.target, client=patient(**changes))
    assert not bench.target.exists()
    return caught.value


def test_a_closed_port(bench: Bench) -> None:
    error = refuse(f"127.0.0.1:{free_port()}/a/b:v1", bench)
    assert isinstance(error, RegistryError)
    assert "doctor" in error.hint


def test_a_host_without_an_address(bench: Bench) -> None:
    error = refuse("no-such-host.invalid/a/b:v1", bench, environ={"HOME": "/nonexistent"})
    assert isinstance(error, RegistryError)
    assert "no-such-host.invalid" in str(error)
    assert "doctor" in error.hint


def test_tls_without_its_authority(
    bench: Bench, fault_proxy: Callable[..., FaultProxy], certs: Certs
) -> None:
    proxy = fault_proxy(bench.registry, tls=certs)
    host = proxy.host.replace("127.0.0.1", "localhost")
    waits = Waits()
    error = refuse(
        f"{host}/{bench.repo}:v1",
        bench,
        client_cert=certs.client_cert,
        client_key=certs.client_key,
        sleep=waits,
    )
    assert isinstance(error, RegistryError)
    assert "--ca-file" in error.hint
    # another attempt would not make it trusted
    assert waits.asked == []


def test_tls_spoken_to_plain_http(bench: Bench, certs: Certs) -> None:
    error = refuse(bench.direct, bench, ca_file=certs.ca)
    assert isinstance(error, RegistryError)
    assert "--plain-http" in error.hint


def test_https_does_not_follow_to_http(
    bench: Bench, fault_proxy: Callable[..., FaultProxy], certs: Certs, canary: Canary
) -> None:
    proxy = fault_proxy(bench.registry, tls=certs)
    proxy.add(Redirect(lambda path: canary.url + path), method="GET", path="/blobs/", times=None)
    bench.proxy = proxy
    error = bench.refused(RegistryError, patient(ca_file=certs.ca))
    assert "https" in str(error)
    assert canary.requests == []


def test_https_does_not_ask_for_tokens_over_http(
    bench: Bench,
    fault_proxy: Callable[..., FaultProxy],
    certs: Certs,
    canary: Canary,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    proxy = fault_proxy(bench.registry, tls=certs)
    challenge = {"WWW-Authenticate": f'Bearer realm="{canary.url}/token",service="x"'}
    proxy.add(Status(401, challenge), times=None)
    bench.proxy = proxy
    auth = tmp_path_factory.mktemp("auth") / "auth.json"
    options = with_login(auth, {proxy.host: ("alice", "secret")}, ca_file=certs.ca)
    error = bench.refused(AuthenticationError, options)
    assert "clear" in str(error)
    assert canary.requests == []


def test_a_token_server_that_answers_nonsense(bench: Bench, canary: Canary) -> None:
    canary.serve("/token", b"<html>")
    challenge = {"WWW-Authenticate": f'Bearer realm="{canary.url}/token",service="x"'}
    bench.proxy.add(Status(401, challenge), path="/v2/", times=None)
    bench.refused(RegistryError, hint=False)
    bench.proxy.clear()
    canary.serve("/token", b'{"token":"abc"}')
    bench.proxy.add(Status(401, challenge), path="/v2/", times=None)
    bench.refused(AuthenticationError)
    # the tokens themselves went to the registry only
    canary.assert_clean()
    bench.assert_heals()


def test_tags_without_an_end(bench: Bench) -> None:
    """A page that leads to itself."""
    link = f'</v2/{bench.repo}/tags/list?last=v1>; rel="next"'
    bench.proxy.add(Headers({"Link": link}), path="/tags/list", times=None)
    bench.proxy.add(ReplaceBody(b'{"name":"x","tags":["v1"]}'), path="/tags/list", times=None)
    with pytest.raises(RegistryError) as caught:
        ls(f"{bench.proxy.host}/{bench.repo}", client=patient())
    assert "without an end" in str(caught.value)
    assert caught.value.hint


def test_tags_without_an_end_that_always_differ(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_PAGES", 20)
    seen: list[str] = []

    class Next(ReplaceBody):
        def after(self, request: object, reply: object) -> object:  # type: ignore[override]
            seen.append("")
            link = f'</v2/{bench.repo}/tags/list?last={len(seen)}>; rel="next"'
            changed = super().after(request, reply)  # type: ignore[arg-type]
            return changed.with_headers({"Link": link})

    bench.proxy.add(Next(b'{"name":"x","tags":["v1"]}'), path="/tags/list", times=None)
    with pytest.raises(RegistryError):
        ls(f"{bench.proxy.host}/{bench.repo}", client=patient())
    assert len(seen) == 20


def test_tags_in_pages(bench: Bench) -> None:
    link = f'</v2/{bench.repo}/tags/list?last=b>; rel="next"'
    bench.proxy.add(ReplaceBody(b'{"tags":["b","a"]}'), path=r"/tags/list$")
    bench.proxy.add(Headers({"Link": link}), path=r"/tags/list$")
    bench.proxy.add(ReplaceBody(b'{"tags":["c"]}'), path=r"/tags/list\?last=b")
    tags = ls(f"{bench.proxy.host}/{bench.repo}", client=patient())
    assert [tag.name for tag in tags] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b'{"tags":[1,null]}', b'{"tags":["\\u001b[2J"]}', b""],
)
def test_tags_that_are_none(bench: Bench, body: bytes) -> None:
    bench.proxy.add(ReplaceBody(body), path="/tags/list", times=None)
    with pytest.raises(RegistryError) as caught:
        ls(f"{bench.proxy.host}/{bench.repo}", client=patient())
    assert caught.value.hint


@pytest.mark.parametrize(
    "body",
    [
        b"<html>sign in</html>",
        b"",
        b"{}",
        json.dumps({"schemaVersion": 2, "manifests": "x"}).encode(),
        json.dumps({"schemaVersion": 2, "manifests": [{"digest": "nonsense"}]}).encode(),
    ],
)
def test_referrers_that_are_a_page_for_people(bench: Bench, body: bytes) -> None:
    """200 with anything but an index is no referrers API."""
    bench.proxy.add(Status(200, body=body), path="/referrers/", times=None)
    found = inspect(bench.reference, client=patient())
    assert found.referrers == ()
    bench.pull()
    assert read_tree(bench.target) == read_tree(bench.model)


def test_referrers_that_break_off_are_asked_for_again(bench: Bench) -> None:
    from tests.servers.faults import Reply, Request, answer

    index = json.dumps({"schemaVersion": 2, "manifests": []}).encode()

    class Cut(Status):
        def before(self, request: Request) -> Reply | None:
            from dataclasses import replace

            return replace(answer(200, {}, index), cut_after=5, rst=False)

    bench.proxy.add(Cut(200), path="/referrers/", times=None)
    with pytest.raises(RegistryError):
        inspect(bench.reference, client=patient())
    assert bench.proxy.count(path="/referrers/") == 3
