"""The test servers themselves: each fault does what it says, before a real registry."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from tests.servers import faults, quirks
from tests.servers.canary import Canary
from tests.servers.certs import Certs
from tests.servers.fault_proxy import FaultProxy
from tests.servers.models import generated, tiny_safetensors
from tests.servers.process import ServerError, ServerProcess
from tests.servers.registry import DockerRegistry, GgcrRegistry
from tests.servers.token_server import TokenServer, User

BLOB = bytes(range(256)) * 1024  # 256 KiB
DIGEST = "sha256:" + hashlib.sha256(BLOB).hexdigest()
REPO = "infra/test"
BLOB_PATH = f"/v2/{REPO}/blobs/{DIGEST}"
UPLOADS = f"/v2/{REPO}/blobs/uploads/"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
Proxies = Callable[..., FaultProxy]
Tools = Callable[[str], Path]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    url: str,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own; `path` may be a whole URL."""
    target = urlsplit(path if path.startswith("http") else url + path)
    kind = http.client.HTTPConnection
    if target.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            target.netloc, timeout=20, context=context
        )
    else:
        connection = kind(target.netloc, timeout=20)
    try:
        whole = target.path + (f"?{target.query}" if target.query else "")
        connection.request(method, whole, body, dict(headers or {}))
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


def push(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    """POST + monolithic PUT of one blob."""
    start = ask(url, UPLOADS, "POST", b"", headers)
    assert start.status == 202, start
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    location = start.headers["location"]
    mark = "&" if "?" in location else "?"
    return ask(url, f"{location}{mark}digest={digest}", "PUT", body, headers)


@pytest.fixture
def proxy(docker_registry: DockerRegistry, fault_proxy: Proxies) -> FaultProxy:
    """A proxy before a registry that holds BLOB."""
    assert push(docker_registry.url, BLOB).status == 201
    return fault_proxy(docker_registry)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def token_for(server: TokenServer, *scopes: str, user: str = "alice") -> dict[str, str]:
    query = urlencode([("service", server.service), *(("scope", scope) for scope in scopes)])
    answer = ask(server.url, f"/token?{query}", headers=basic(user, server.users[user].password))
    assert answer.status == 200, answer
    return {"Authorization": "Bearer " + json.loads(answer.body)["token"]}


class TestPassing:
    def test_a_blob_goes_through_unchanged_and_is_counted(self, proxy: FaultProxy) -> None:
        other = os.urandom(300_000)
        assert push(proxy.url, other).status == 201
        assert ask(proxy.url, BLOB_PATH).body == BLOB
        assert proxy.uploaded() == len(other)
        assert proxy.downloaded() == len(BLOB)
        assert [exchange.status for exchange in proxy.log] == [202, 201, 200]

    def test_locations_name_the_proxy(self, proxy: FaultProxy) -> None:
        location = ask(proxy.url, UPLOADS, "POST", b"").headers["location"]
        assert location.startswith(proxy.url)

    def test_ranges_and_keep_alive(self, proxy: FaultProxy) -> None:
        connection = http.client.HTTPConnection(proxy.host, timeout=20)
        for start in (0, 1000):
            connection.request("GET", BLOB_PATH, headers={"Range": f"bytes={start}-{start + 9}"})
            response = connection.getresponse()
            assert response.status == 206
            assert response.read() == BLOB[start : start + 10]
        connection.request("HEAD", BLOB_PATH)
        response = connection.getresponse()
        assert (response.status, response.length) == (200, 0)
        response.read()
        connection.request("GET", f"/v2/{REPO}/tags/list")
        assert connection.getresponse().read()
        connection.close()

    def test_a_chunked_upload_body(self, proxy: FaultProxy) -> None:
        location = ask(proxy.url, UPLOADS, "POST", b"").headers["location"]
        target = urlsplit(location)
        connection = http.client.HTTPConnection(proxy.host, timeout=20)
        pieces = (BLOB[at : at + 50_000] for at in range(0, len(BLOB), 50_000))
        path = f"{target.path}?{target.query}"
        connection.request("PATCH", path, pieces, encode_chunked=True)
        assert connection.getresponse().status == 202
        assert proxy.select("PATCH")[0].request_bytes == len(BLOB)
        connection.close()


class TestDamage:
    def test_drop(self, proxy: FaultProxy) -> None:
        proxy.add(faults.Drop(after_bytes=100_000), path="/blobs/")
        with pytest.raises((ConnectionError, http.client.IncompleteRead)):
            ask(proxy.url, BLOB_PATH)
        assert proxy.downloaded() == 100_000
        assert ask(proxy.url, BLOB_PATH).body == BLOB

    def test_short_body(self, proxy: FaultProxy) -> None:
        proxy.add(faults.ShortBody(1000))
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(proxy.url, BLOB_PATH)
        assert len(caught.value.partial) == 1000

    def test_flip(self, proxy: FaultProxy) -> None:
        proxy.add(faults.FlipByte(offset=70_000))
        body = ask(proxy.url, BLOB_PATH).body
        differing = [at for at in range(len(BLOB)) if body[at] != BLOB[at]]
        assert differing == [70_000]

    def test_replaced_body_keeps_the_headers(self, proxy: FaultProxy) -> None:
        proxy.add(faults.ReplaceBody(b"evil"))
        answer = ask(proxy.url, BLOB_PATH)
        assert (answer.body, answer.headers["docker-content-digest"]) == (b"evil", DIGEST)

    def test_changed_headers(self, proxy: FaultProxy) -> None:
        changes = {"Docker-Content-Digest": None, "X-Extra": "1"}
        proxy.add(faults.Headers(changes))
        headers = ask(proxy.url, BLOB_PATH).headers
        assert "docker-content-digest" not in headers
        assert headers["x-extra"] == "1"


class TestAnswers:
    @pytest.mark.parametrize("code", [401, 403, 413, 416, 429, 500, 502, 503, 504])
    def test_status_then_real(self, proxy: FaultProxy, code: int) -> None:
        proxy.add(faults.Status(code, {"Retry-After": "1"}), method="GET", times=2)
        answers = [ask(proxy.url, BLOB_PATH) for _ in range(3)]
        assert [answer.status for answer in answers] == [code, code, 200]
        assert answers[0].headers["retry-after"] == "1"

    def test_skip_and_method(self, proxy: FaultProxy) -> None:
        proxy.add(faults.Status(503), method="GET", path="/blobs/", skip=1)
        statuses = [ask(proxy.url, BLOB_PATH, method).status for method in ("HEAD", "GET", "GET")]
        assert statuses == [200, 200, 503]

    def test_reset_before_answering(self, proxy: FaultProxy) -> None:
        proxy.add(faults.ResetBefore())
        with pytest.raises(ConnectionResetError):
            ask(proxy.url, BLOB_PATH)

    def test_reset_in_the_middle_of_an_upload(self, proxy: FaultProxy) -> None:
        proxy.add(faults.ResetBefore(after_bytes=65536), method="PUT")
        with pytest.raises(ConnectionError):
            push(proxy.url, os.urandom(8 << 20))
        assert proxy.select("PUT")[0].request_bytes < 8 << 20

    def test_401_in_the_middle_of_an_upload(self, proxy: FaultProxy) -> None:
        action = faults.RefuseMidUpload(65536, 401, {"WWW-Authenticate": "Bearer realm=x"})
        proxy.add(action, method="PUT")
        body = os.urandom(8 << 20)
        assert push(proxy.url, body).status == 401
        assert proxy.select("PUT")[0].request_bytes < len(body)
        assert push(proxy.url, body).status == 201

    def test_range_ignored(self, proxy: FaultProxy) -> None:
        proxy.add(faults.IgnoreRange())
        answer = ask(proxy.url, BLOB_PATH, headers={"Range": "bytes=0-9"})
        assert (answer.status, answer.body) == (200, BLOB)


class TestStalls:
    def test_held_until_released(self, proxy: FaultProxy) -> None:
        release = threading.Event()
        proxy.add(faults.Stall(release))
        connection = http.client.HTTPConnection(proxy.host, timeout=0.2)
        connection.request("GET", BLOB_PATH)
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
        release.set()
        assert ask(proxy.url, BLOB_PATH).status == 200

    def test_held_in_the_body(self, proxy: FaultProxy) -> None:
        release = threading.Event()
        proxy.add(faults.Stall(release, after_bytes=1000))
        connection = http.client.HTTPConnection(proxy.host, timeout=20)
        connection.request("GET", BLOB_PATH)
        response = connection.getresponse()
        first = response.read(1000)
        assert proxy.downloaded() == 1000
        release.set()
        assert first + response.read() == BLOB
        connection.close()

    def test_stopping_the_proxy_ends_a_stall(self, docker_registry: DockerRegistry) -> None:
        with FaultProxy(docker_registry.url) as proxy:
            proxy.add(faults.Stall(threading.Event()))
            client = socket.create_connection(("127.0.0.1", int(proxy.host.split(":")[1])))
            client.settimeout(20)
            client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert client.recv(10) == b""
        client.close()


class TestOtherHosts:
    def test_redirect_and_canary(self, proxy: FaultProxy, canary: Canary) -> None:
        target = canary.serve("/blob", BLOB)
        proxy.add(faults.Redirect(target + "?signature=1"), method="GET", path="/blobs/")
        answer = ask(proxy.url, BLOB_PATH, headers=basic("a", "b"))
        assert (answer.status, answer.headers["location"]) == (307, target + "?signature=1")
        part = ask(canary.url, answer.headers["location"], headers={"Range": "bytes=5-9"})
        assert (part.status, part.body) == (206, BLOB[5:10])
        assert len(canary.requests) == 1
        assert canary.credentials() == []

    def test_the_canary_notices_a_credential(self) -> None:
        with Canary() as canary:
            ask(canary.url, "/x", headers=basic("a", "b"))
            with pytest.raises(AssertionError, match="foreign host"):
                canary.assert_clean()

    def test_foreign_location(self, proxy: FaultProxy, canary: Canary) -> None:
        proxy.add(faults.ForeignLocation(canary.url), method="POST")
        location = ask(proxy.url, UPLOADS, "POST", b"").headers["location"]
        assert location.startswith(canary.url + "/v2/")
        assert ask(canary.url, location, "PUT", b"abc").status == 201
        assert canary.requests[0].body_bytes == 3


class TestQuirks:
    def patch(self, proxy: FaultProxy, n_bytes: int) -> int:
        location = ask(proxy.url, UPLOADS, "POST", b"").headers["location"]
        return ask(proxy.url, location, "PATCH", bytes(n_bytes)).status

    def test_ghcr(self, proxy: FaultProxy) -> None:
        proxy.apply(quirks.ghcr(limit=1000))
        assert (self.patch(proxy, 1001), self.patch(proxy, 1000)) == (416, 202)

    def test_ecr_and_gar(self, proxy: FaultProxy) -> None:
        proxy.apply(quirks.ecr())
        assert self.patch(proxy, 10) == 201
        proxy.clear()
        proxy.apply(quirks.gar())
        assert self.patch(proxy, 10) == 405

    def test_acr(self, proxy: FaultProxy) -> None:
        proxy.apply(quirks.acr(limit=1000))
        assert (push(proxy.url, bytes(1001)).status, push(proxy.url, bytes(1000)).status) == (
            413,
            201,
        )

    def test_quay(self, proxy: FaultProxy) -> None:
        proxy.apply(quirks.quay())
        mount = f"{UPLOADS}?mount={DIGEST}"
        statuses = [
            ask(proxy.url, mount + end, "POST", b"").status for end in ("", f"&from={REPO}")
        ]
        assert statuses == [400, 201]

    @pytest.mark.parametrize(
        ("kind", "status"),
        [("application/vnd.oci.image.config.v1+json", 201), ("application/vnd.x.config+json", 400)],
    )
    def test_gitlab(self, proxy: FaultProxy, kind: str, status: int) -> None:
        proxy.apply(quirks.gitlab())
        answer = put_manifest(proxy.url, manifest(kind))
        assert answer.status == status

    def test_referrers_off(self, ggcr: GgcrRegistry, fault_proxy: Proxies) -> None:
        assert push(ggcr.url, BLOB).status == 201
        body = manifest("application/vnd.x.config+json")
        assert put_manifest(ggcr.url, body).status == 201
        path = f"/v2/{REPO}/referrers/sha256:{hashlib.sha256(body).hexdigest()}"
        assert ask(ggcr.url, path).status == 200
        proxy = fault_proxy(ggcr)
        proxy.apply(quirks.no_referrers())
        assert ask(proxy.url, path).status == 404


def manifest(config_type: str) -> bytes:
    config = {"mediaType": config_type, "digest": DIGEST, "size": len(BLOB)}
    document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": []}
    return json.dumps(document).encode()


def put_manifest(url: str, body: bytes) -> Answer:
    return ask(url, f"/v2/{REPO}/manifests/v1", "PUT", body, {"Content-Type": MANIFEST_TYPE})


class TestAuthentication:
    def test_htpasswd(self, registry_htpasswd: DockerRegistry) -> None:
        url = registry_htpasswd.url
        statuses = [
            ask(url, "/v2/", headers=headers).status
            for headers in ({}, basic("alice", "wrong"), basic("alice", "secret"))
        ]
        assert statuses == [401, 401, 200]

    def test_tls(self, registry_tls: DockerRegistry, certs: Certs) -> None:
        trusting = certs.client_context()
        assert ask(registry_tls.url, "/v2/", context=trusting).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(registry_tls.url, "/v2/", context=ssl.create_default_context())

    def test_client_certificate(self, tmp_path: Path, certs: Certs, tool_path: Tools) -> None:
        tool_path("docker-registry")
        with DockerRegistry(tmp_path, tls=certs, client_cert=True) as registry:
            assert ask(registry.url, "/v2/", context=certs.client_context()).status == 200
            bare = ssl.create_default_context(cafile=str(certs.ca))
            with pytest.raises(OSError):
                ask(registry.url, "/v2/", context=bare)

    def test_a_tls_proxy_before_a_tls_registry(
        self, registry_tls: DockerRegistry, certs: Certs, fault_proxy: Proxies
    ) -> None:
        proxy = fault_proxy(registry_tls, cafile=certs.ca, tls=certs)
        proxy.add(faults.ResetBefore(), times=1)
        with pytest.raises(OSError):
            ask(proxy.url, "/v2/", context=certs.client_context())
        assert ask(proxy.url, "/v2/", context=certs.client_context()).status == 200


class TestTokens:
    PULL = f"repository:{REPO}:pull"
    PUSH = f"repository:{REPO}:pull,push"

    def test_the_challenge_names_the_server(
        self, registry_token: DockerRegistry, token_server: TokenServer
    ) -> None:
        challenge = ask(registry_token.url, BLOB_PATH).headers["www-authenticate"]
        assert f'realm="{token_server.realm}"' in challenge
        assert f'scope="{self.PULL}"' in challenge

    def test_push_with_a_push_token_only(
        self, registry_token: DockerRegistry, token_server: TokenServer
    ) -> None:
        url = registry_token.url
        assert push(url, BLOB, token_for(token_server, self.PUSH)).status == 201
        pull = token_for(token_server, self.PULL)
        assert ask(url, BLOB_PATH, headers=pull).body == BLOB
        assert ask(url, UPLOADS, "POST", b"", pull).status == 401
        assert (token_server.count(self.PUSH), token_server.count(self.PULL)) == (1, 1)

    def test_an_expired_token_is_refused(
        self, registry_token: DockerRegistry, token_server: TokenServer
    ) -> None:
        push(registry_token.url, BLOB, token_for(token_server, self.PUSH))
        token_server.expires_in = -2
        expired = token_for(token_server, self.PULL)
        assert ask(registry_token.url, BLOB_PATH, headers=expired).status == 401

    def test_grants_cut_the_scope(
        self, registry_token: DockerRegistry, token_server: TokenServer
    ) -> None:
        token_server.users["bob"] = User("b", {"infra/*": frozenset({"pull"})})
        headers = token_for(token_server, self.PUSH, user="bob")
        assert ask(registry_token.url, UPLOADS, "POST", b"", headers).status == 401
        assert ask(registry_token.url, BLOB_PATH, headers=headers).status == 404

    def test_wrong_password_and_anonymous(self, tmp_path: Path) -> None:
        with TokenServer(tmp_path) as server:
            path = f"/token?service=s&scope={self.PULL}"
            assert ask(server.url, path, headers=basic("alice", "no")).status == 401
            assert ask(server.url, path).status == 401
            server.anonymous = {"*": frozenset({"pull"})}
            assert ask(server.url, path).status == 200
            assert server.count() == 1

    def test_oauth2(self, tmp_path: Path) -> None:
        form = {"grant_type": "refresh_token", "refresh_token": "id-1", "scope": self.PULL}
        users = {"alice": User("secret", identity_token="id-1")}
        with TokenServer(tmp_path, users=users) as server:
            body = urlencode(form).encode()
            assert ask(server.url, "/token", "POST", body).status == 404
            server.oauth2 = True
            answer = json.loads(ask(server.url, "/token", "POST", body).body)
            assert answer["refresh_token"] == "id-1"
            wrong = urlencode(form | {"refresh_token": "id-2"}).encode()
            assert ask(server.url, "/token", "POST", wrong).status == 401
            assert [request.user for request in server.requests] == ["", "alice", ""]


class TestProcesses:
    def test_restart_keeps_port_and_blobs(self, tmp_path: Path, tool_path: Tools) -> None:
        tool_path("docker-registry")
        with DockerRegistry(tmp_path) as registry:
            push(registry.url, BLOB)
            before = registry.url
            registry.restart()
            assert registry.url == before
            assert ask(registry.url, BLOB_PATH).body == BLOB
            assert registry.blobs() == {DIGEST}
            assert registry.blob_path(DIGEST).read_bytes() == BLOB

    def test_a_server_that_fails_shows_its_log(self, tmp_path: Path) -> None:
        command = ["sh", "-c", "echo broken config; exit 1"]
        process = ServerProcess(lambda _port: command, tmp_path / "log")
        with pytest.raises(ServerError, match="broken config"):
            process.start()

    def test_a_taken_port_is_left_for_another(self, tmp_path: Path) -> None:
        ports: list[int] = []

        def argv(port: int) -> list[str]:
            ports.append(port)
            if len(ports) == 1:
                return ["sh", "-c", "echo listen: address already in use; exit 1"]
            return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]

        process = ServerProcess(argv, tmp_path / "log")
        process.start()
        process.stop()
        assert len(ports) == 2


class TestModels:
    def test_generated_is_reproducible(self, tmp_path: Path) -> None:
        sizes = (0, 1, 12_345, (16 << 20) + 3)
        for n_bytes in sizes:
            first = generated(tmp_path / "a", n_bytes, seed=1).read_bytes()
            again = generated(tmp_path / "b", n_bytes, seed=1).read_bytes()
            assert len(first) == n_bytes
            assert first == again
        assert generated(tmp_path / "c", 12_345, seed=2).read_bytes() != first[:12_345]

    def test_tiny_safetensors_is_real(self, tmp_path: Path) -> None:
        from safetensors.numpy import load_file

        path = tiny_safetensors(tmp_path / "m.safetensors", {"a": (256, 384), "b": (7,)}, seed=3)
        tensors = load_file(path)
        assert {name: value.shape for name, value in tensors.items()} == {
            "a": (256, 384),
            "b": (7,),
        }

    def test_minilm_is_the_real_model(self, minilm_dir: Path) -> None:
        assert (minilm_dir / "model.safetensors").stat().st_size == 90_868_376
        assert (minilm_dir / "1_Pooling/config.json").is_file()


def test_the_environment_is_nobodys(isolated_environment: Path) -> None:
    assert Path.home() == isolated_environment
    assert "DOCKER_CONFIG" not in os.environ
    assert "127.0.0.1" in os.environ["NO_PROXY"]
