"""Who may do what, over which transport: Basic, tokens, TLS, client certificates, proxies."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ocimodel.errors import AuthenticationError, NotFoundError, RegistryError
from ocimodel.ops.browse import ls
from ocimodel.ops.copy import copy
from ocimodel.ops.doctor import doctor
from ocimodel.ops.login import login, logout
from ocimodel.ops.pull import pull
from ocimodel.ops.push import push
from ocimodel.ops.tags import rm, tag
from tests.servers.certs import Certs
from tests.servers.fault_proxy import FaultProxy
from tests.servers.proxy import ForwardProxy
from tests.servers.registry import DockerRegistry
from tests.servers.token_server import TokenServer, User
from tests.trees import Waits, patient, read_tree, with_login

ALICE = ("alice", "secret")


def round_trip(reference: str, model: Path, target: Path, **options: object) -> None:
    client = patient(**options)
    push(model, reference, client=client)
    pull(reference, target, client=client)
    assert read_tree(target) == read_tree(model)


# Basic


def test_basic_authentication(
    registry_htpasswd: DockerRegistry, repo: str, model: Path, tmp_path: Path
) -> None:
    reference = f"{registry_htpasswd.host}/{repo}:v1"
    with pytest.raises(AuthenticationError) as caught:
        push(model, reference, client=patient())
    assert f"login {registry_htpasswd.host}" in caught.value.hint
    wrong = with_login(tmp_path / "w.json", {registry_htpasswd.host: ("alice", "wrong")})
    with pytest.raises(AuthenticationError):
        push(model, reference, client=wrong)
    right = with_login(tmp_path / "r.json", {registry_htpasswd.host: ALICE})
    push(model, reference, client=right)
    pull(reference, tmp_path / "target", client=right)
    assert read_tree(tmp_path / "target") == read_tree(model)


def test_a_body_is_never_sent_twice_to_be_asked_who_one_is(
    registry_htpasswd: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    repo: str,
    model: Path,
    tmp_path: Path,
) -> None:
    proxy = fault_proxy(registry_htpasswd)
    options = with_login(tmp_path / "a.json", {proxy.host: ALICE})
    result = push(model, f"{proxy.host}/{repo}:v1", client=options)
    assert proxy.uploaded() == result.bytes_pushed


def test_login_checks_stores_and_forgets(
    registry_htpasswd: DockerRegistry, repo: str, model: Path, isolated_environment: Path
) -> None:
    host = registry_htpasswd.host
    with pytest.raises(AuthenticationError):
        login(host, "alice", "wrong", client=patient())
    path = isolated_environment / ".docker" / "config.json"
    assert not path.exists()
    result = login(host, "alice", "secret", client=patient())
    assert result.stored == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(json.loads(path.read_text())["auths"]) == [host]
    push(model, f"{host}/{repo}:v1", client=patient())
    assert logout(host, client=patient()).removed
    assert not logout(host, client=patient()).removed
    with pytest.raises(AuthenticationError):
        push(model, f"{host}/{repo}:v2", client=patient())


# tokens


def test_tokens_carry_exactly_what_is_needed(
    registry_token: DockerRegistry, token_server: TokenServer, model: Path, tmp_path: Path
) -> None:
    host = registry_token.host
    options = with_login(tmp_path / "a.json", {host: ALICE})
    push(model, f"{host}/team/model:v1", client=options)
    scopes = {scope for request in token_server.requests for scope in request.scopes}
    assert scopes == {"repository:team/model:pull,push"}
    token_server.clear()
    pull(f"{host}/team/model:v1", tmp_path / "target", client=options)
    assert {s for r in token_server.requests for s in r.scopes} == {"repository:team/model:pull"}
    # one token for all threads and requests
    assert token_server.count() == 1
    assert read_tree(tmp_path / "target") == read_tree(model)


def test_whoever_may_only_pull_cannot_push(
    registry_token: DockerRegistry, token_server: TokenServer, model: Path, tmp_path: Path
) -> None:
    token_server.users["bob"] = User("builder", {"team/*": frozenset({"pull"})})
    host = registry_token.host
    bob = with_login(tmp_path / "b.json", {host: ("bob", "builder")})
    alice = with_login(tmp_path / "a.json", {host: ALICE})
    with pytest.raises(AuthenticationError) as caught:
        push(model, f"{host}/team/model:v1", client=bob)
    assert caught.value.exit_code == 4
    assert f"login {host}" in caught.value.hint
    push(model, f"{host}/team/model:v1", client=alice)
    pull(f"{host}/team/model:v1", tmp_path / "target", client=bob)
    assert read_tree(tmp_path / "target") == read_tree(model)


def test_whoever_may_push_needs_no_right_to_delete(
    registry_token: DockerRegistry, token_server: TokenServer, model: Path, tmp_path: Path
) -> None:
    """Uploads that come to nothing are left to time out."""
    grants = {"team/*": frozenset({"pull", "push"})}
    token_server.users["carol"] = User("pw", grants)
    host = registry_token.host
    carol = with_login(tmp_path / "c.json", {host: ("carol", "pw")})
    push(model, f"{host}/team/model:v1", client=carol)
    found = doctor(f"{host}/team/model:v1", write=True, client=carol)
    assert found.exit_code == 0, found
    copied = copy(f"{host}/team/model:v1", f"{host}/team/other:v1", client=carol)
    assert copied.bytes_copied == 0


def test_anonymous_pull(
    registry_token: DockerRegistry, token_server: TokenServer, model: Path, tmp_path: Path
) -> None:
    host = registry_token.host
    options = with_login(tmp_path / "a.json", {host: ALICE})
    push(model, f"{host}/public/model:v1", client=options)
    with pytest.raises(AuthenticationError):
        pull(f"{host}/public/model:v1", tmp_path / "target", client=patient())
    token_server.anonymous = {"public/*": frozenset({"pull"})}
    pull(f"{host}/public/model:v1", tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == read_tree(model)
    with pytest.raises(AuthenticationError):
        push(model, f"{host}/public/model:v2", client=patient())


def test_tokens_that_expire_at_once(
    registry_token: DockerRegistry, token_server: TokenServer, model: Path, tmp_path: Path
) -> None:
    """Short-lived ones are renewed; ones that are never good end in an error, not in a loop."""
    host = registry_token.host
    options = with_login(tmp_path / "a.json", {host: ALICE})
    token_server.expires_in = 2
    push(model, f"{host}/team/model:v1", client=options)
    pull(f"{host}/team/model:v1", tmp_path / "target", client=options)
    assert read_tree(tmp_path / "target") == read_tree(model)
    token_server.expires_in = -100
    token_server.clear()
    with pytest.raises(AuthenticationError):
        pull(f"{host}/team/model:v1", tmp_path / "target", client=options)
    assert len(token_server.requests) < 10


def test_an_identity_token(
    registry_token: DockerRegistry, token_server: TokenServer, model: Path, tmp_path: Path
) -> None:
    token_server.oauth2 = True
    token_server.users["dave"] = User("pw", identity_token="opaque")
    host = registry_token.host
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"auths": {host: {"identitytoken": "opaque"}}}))
    round_trip(f"{host}/team/model:v1", model, tmp_path / "target", registry_config=path)
    assert {request.method for request in token_server.requests} == {"POST"}


def test_tags_go_with_tokens_too(
    registry_token: DockerRegistry, model: Path, tmp_path: Path
) -> None:
    host = registry_token.host
    options = with_login(tmp_path / "a.json", {host: ALICE})
    pushed = push(model, f"{host}/team/model:v1", client=options)
    tag(f"{host}/team/model:v1", "v2", client=options)
    assert not rm(f"{host}/team/model:v1", client=options).deleted
    assert [found.name for found in ls(f"{host}/team/model", client=options)] == ["v2"]
    assert rm(pushed.pinned, client=options).deleted


# TLS


def test_tls_with_a_private_authority(
    registry_tls: DockerRegistry, certs: Certs, repo: str, model: Path, tmp_path: Path
) -> None:
    reference = f"{registry_tls.host}/{repo}"
    waits = Waits()
    with pytest.raises(RegistryError) as caught:
        push(model, f"{reference}:v1", client=patient(sleep=waits))
    assert caught.value.exit_code == 5
    assert "--ca-file" in caught.value.hint
    assert waits.asked == []
    round_trip(f"{reference}:a", model, tmp_path / "a", ca_file=certs.ca)
    round_trip(f"{reference}:b", model, tmp_path / "b", insecure=True)
    folder = tmp_path / "certs.d" / registry_tls.host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(certs.ca.read_bytes())
    round_trip(f"{reference}:c", model, tmp_path / "c", certificate_folders=(tmp_path / "certs.d",))


def test_a_client_certificate(
    certs: Certs, tool_path: Callable[[str], Path], repo: str, model: Path, tmp_path: Path
) -> None:
    tool_path("docker-registry")
    with DockerRegistry(tmp_path / "mtls", tls=certs, client_cert=True) as registry:
        reference = f"{registry.host}/{repo}:v1"
        with pytest.raises(RegistryError):
            push(model, reference, client=patient(ca_file=certs.ca))
        round_trip(
            reference,
            model,
            tmp_path / "target",
            ca_file=certs.ca,
            client_cert=certs.client_cert,
            client_key=certs.client_key,
        )
        folder = tmp_path / "certs.d" / registry.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certs.ca.read_bytes())
        (folder / "me.cert").write_bytes(certs.client_cert.read_bytes())
        (folder / "me.key").write_bytes(certs.client_key.read_bytes())
        pull(
            reference,
            tmp_path / "by-folder",
            client=patient(certificate_folders=(tmp_path / "certs.d",)),
        )


# proxies


def environ(proxy: ForwardProxy, tmp_path: Path, user: str = "", **more: str) -> dict[str, str]:
    url = f"http://{user}{proxy.host}"
    return {"HOME": str(tmp_path), "http_proxy": url, "HTTPS_PROXY": url, **more}


def test_plain_http_through_a_proxy(
    docker_registry: DockerRegistry, repo: str, model: Path, tmp_path: Path
) -> None:
    backend = docker_registry.host
    with ForwardProxy({"registry.test:80": backend}) as proxy:
        options = {"plain_http": True, "environ": environ(proxy, tmp_path)}
        round_trip(f"registry.test/{repo}:v1", model, tmp_path / "target", **options)
        assert all(target.startswith("http://registry.test/") for _, target in proxy.seen)


def test_https_through_a_proxy(
    registry_tls: DockerRegistry, certs: Certs, repo: str, model: Path, tmp_path: Path
) -> None:
    backend = registry_tls.host.replace("localhost", "127.0.0.1")
    with ForwardProxy({"registry.test:443": backend}) as proxy:
        options = {"ca_file": certs.ca, "environ": environ(proxy, tmp_path)}
        round_trip(f"registry.test/{repo}:v1", model, tmp_path / "target", **options)
        assert set(proxy.seen) == {("CONNECT", "registry.test:443")}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_with_a_password(
    docker_registry: DockerRegistry,
    registry_tls: DockerRegistry,
    certs: Certs,
    repo: str,
    model: Path,
    tmp_path: Path,
    scheme: str,
) -> None:
    hosts = {
        "registry.test:80": docker_registry.host,
        "registry.test:443": registry_tls.host.replace("localhost", "127.0.0.1"),
    }
    with ForwardProxy(hosts, login=("us er", "p@ss")) as proxy:
        how = {"plain_http": True} if scheme == "http" else {"ca_file": certs.ca}
        reference = f"registry.test/{repo}:v1"
        for user in ("", "us%20er:wrong@"):
            waits = Waits()
            with pytest.raises(RegistryError) as caught:
                pull(
                    reference,
                    tmp_path / "target",
                    client=patient(environ=environ(proxy, tmp_path, user), sleep=waits, **how),
                )
            assert "proxy" in caught.value.hint
            assert waits.asked == []
        right = environ(proxy, tmp_path, "us%20er:p%40ss@")
        round_trip(reference, model, tmp_path / "target", environ=right, **how)


def test_no_proxy_goes_around(
    docker_registry: DockerRegistry, repo: str, model: Path, tmp_path: Path
) -> None:
    with ForwardProxy({}) as proxy:
        # loopback never goes through a proxy
        variables = environ(proxy, tmp_path)
        round_trip(
            f"{docker_registry.host}/{repo}:v1", model, tmp_path / "target", environ=variables
        )
        assert proxy.seen == []
        variables = environ(proxy, tmp_path, no_proxy="other.test,.invalid")
        with pytest.raises(RegistryError):
            pull(
                "no-such-host.invalid/a/b:v1",
                tmp_path / "none",
                client=patient(environ=variables, n_attempts=1, plain_http=True),
            )
        assert proxy.seen == []
        with pytest.raises(RegistryError):
            pull(
                "through.test/a/b:v1",
                tmp_path / "none",
                client=patient(environ=variables, n_attempts=1, plain_http=True),
            )
        assert proxy.seen == [("GET", "http://through.test/v2/a/b/manifests/v1")]


def test_doctor_on_a_healthy_registry(
    docker_registry: DockerRegistry, repo: str, model: Path
) -> None:
    reference = f"{docker_registry.host}/{repo}:v1"
    with pytest.raises(NotFoundError):
        pull(reference, model.parent / "x", client=patient())
    assert doctor(reference, client=patient()).exit_code == 3
    push(model, reference, client=patient())
    found = doctor(reference, write=True, client=patient())
    assert found.exit_code == 0, found
    names = [check.name for check in found.checks]
    assert {"registry", "credentials", "artifact", "ranges", "referrers", "push"} <= set(names)
    assert "served" in next(c.detail for c in found.checks if c.name == "ranges")


def test_doctor_on_what_is_broken(
    registry_htpasswd: DockerRegistry, registry_tls: DockerRegistry, repo: str
) -> None:
    found = doctor(f"{registry_htpasswd.host}/{repo}:v1", client=patient())
    assert found.exit_code == 4
    assert any("login" in check.hint for check in found.checks)
    found = doctor(f"{registry_tls.host}/{repo}:v1", client=patient())
    assert found.exit_code == 5
    assert any("--ca-file" in check.hint for check in found.checks)
