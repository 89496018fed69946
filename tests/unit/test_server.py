"""The registry server over real sockets and a real layout."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ocimodel.errors import TargetError
from ocimodel.server import RegistryServer
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import INDEX, MANIFEST, MAX_MANIFEST_BYTES
from ocimodel.spec.paths import PARTIAL
from ocimodel.store.layout import Layout
from tests.artifacts import random_bytes

BLOB = random_bytes(300_000)
DIGEST = sha256(BLOB)
CONFIG = b"{}"
ABSENT = sha256(b"absent")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The one error code in the body."""
        (error,) = json.loads(self.body)["errors"]
        assert error["message"]
        return str(error["code"])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One keep-alive connection."""

    def __init__(self, server: RegistryServer) -> None:
        self.connection = http.client.HTTPConnection(server.host, timeout=10)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        chunked = body is not None and not isinstance(body, bytes)
        self.connection.request(method, path, body, named, encode_chunked=chunked)
        response = self.connection.getresponse()
        return Answer(response.status, response.headers, response.read())  # type: ignore[arg-type]

    def push(self, content: bytes, repository: str = "team/a") -> str:
        digest = sha256(content)
        path = f"/v2/{repository}/blobs/uploads/?digest={digest}"
        assert self("POST", path, content).status == 201
        return digest

    def manifest(self, *layers: bytes, **fields: object) -> bytes:
        """The bytes of a manifest, all its blobs pushed."""
        for content in (CONFIG, *layers):
            self.push(content)
        return manifest_of(*layers, **fields)

    def put(
        self, raw: bytes, repository: str, reference: str, media_type: str = MANIFEST
    ) -> Answer:
        path = f"/v2/{repository}/manifests/{reference}"
        return self("PUT", path, raw, Content_Type=media_type)


def described(content: bytes, media_type: str = "application/octet-stream") -> dict[str, Any]:
    return Descriptor(media_type, sha256(content), len(content)).to_json()


def manifest_of(*layers: bytes, **fields: object) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(CONFIG, "application/vnd.oci.empty.v1+json"),
        "layers": [described(layer) for layer in layers],
        **fields,
    }
    return json.dumps(document).encode()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "models", create=True)


@pytest.fixture
def server(layout: Layout) -> Iterator[RegistryServer]:
    with RegistryServer(layout, ("127.0.0.1", 0)) as running:
        yield running


@pytest.fixture
def client(server: RegistryServer) -> Iterator[Client]:
    made = Client(server)
    yield made
    made.connection.close()


def uploads_of(layout: Layout) -> list[Path]:
    return list((layout.path / PARTIAL).glob("upload-*"))


# the base


def test_the_base_answers(client: Client, server: RegistryServer) -> None:
    answer = client("GET", "/v2/")
    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    assert server.loopback
    assert client("GET", "/v2/_catalog").json == {"repositories": []}


def test_unknown_paths_names_and_methods(client: Client) -> None:
    assert client("GET", "/other").status == 404
    assert client("GET", "/v2/..%2f..%2fetc/manifests/v1").code == "NAME_INVALID"
    assert client("GET", "/v2/../../etc/manifests/v1").code == "NAME_INVALID"
    assert client("GET", "/v2/Upper/manifests/v1").status == 400
    answer = client("POST", "/v2/a/manifests/v1")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, PUT"
    assert client("OPTIONS", "/v2/").status == 501


# blobs


def test_a_blob_is_read_whole_and_in_ranges(client: Client) -> None:
    path = f"/v2/team/a/blobs/{client.push(BLOB)}"
    whole = client("GET", path)
    assert (whole.status, whole.body) == (200, BLOB)
    assert whole.headers["Docker-Content-Digest"] == DIGEST
    head = client("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(BLOB))
    part = client("GET", path, Range="bytes=1000-1999")
    assert (part.status, part.body) == (206, BLOB[1000:2000])
    assert part.headers["Content-Range"] == f"bytes 1000-1999/{len(BLOB)}"
    assert client("GET", path, Range="bytes=-5").body == BLOB[-5:]
    assert client("GET", path, Range="bytes=299999-400000").body == BLOB[-1:]
    assert client("GET", path, Range="bytes=0-1,4-5").status == 200
    etag = whole.headers["ETag"]
    assert client("GET", path, Range="bytes=0-0", If_Range=etag).status == 206
    assert client("GET", path, Range="bytes=0-0", If_Range='"other"').status == 200
    # the same content in every repository
    assert client("HEAD", f"/v2/other/blobs/{DIGEST}").status == 200


def test_a_range_beyond_the_end(client: Client) -> None:
    path = f"/v2/team/a/blobs/{client.push(BLOB)}"
    answer = client("GET", path, Range=f"bytes={len(BLOB)}-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(BLOB)}"
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert answer.code == "SIZE_INVALID"
    # and the connection lives on
    assert client("GET", "/v2/").status == 200


def test_an_empty_blob(client: Client) -> None:
    path = f"/v2/a/blobs/{client.push(b'')}"
    assert client("GET", path).body == b""
    assert client("GET", path, Range="bytes=0-").status == 416


def test_blobs_that_are_not_there(client: Client) -> None:
    for method in ("GET", "DELETE"):
        answer = client(method, f"/v2/a/blobs/{ABSENT}")
        assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")
    assert client("GET", "/v2/a/blobs/sha256:xyz").code == "DIGEST_INVALID"
    assert client("HEAD", f"/v2/a/blobs/{ABSENT}").body == b""


# uploads


def start(client: Client, repository: str = "team/a") -> str:
    answer = client("POST", f"/v2/{repository}/blobs/uploads/")
    assert answer.status == 202
    assert "OCI-Chunk-Min-Length" not in answer.headers
    return answer.headers["Location"]


def test_post_then_put(client: Client, layout: Layout) -> None:
    answer = client("PUT", f"{start(client)}?digest={DIGEST}", BLOB)
    assert answer.status == 201
    assert answer.headers["Location"] == f"/v2/team/a/blobs/{DIGEST}"
    assert answer.headers["Docker-Content-Digest"] == DIGEST
    assert layout.blob_path(DIGEST).read_bytes() == BLOB
    assert not uploads_of(layout)


def test_chunks_in_order(client: Client) -> None:
    location = start(client)
    for i in range(0, len(BLOB), 100_000):
        chunk = BLOB[i : i + 100_000]
        answer = client("PATCH", location, chunk, Content_Range=f"{i}-{i + len(chunk) - 1}")
        assert answer.status == 202
        assert answer.headers["Range"] == f"0-{i + len(chunk) - 1}"
        location = answer.headers["Location"]
    status = client("GET", location)
    assert (status.status, status.headers["Range"]) == (204, f"0-{len(BLOB) - 1}")
    assert client("PUT", f"{location}?digest={DIGEST.replace(':', '%3A')}").status == 201
    assert client("GET", f"/v2/team/a/blobs/{DIGEST}").body == BLOB
    assert client("GET", location).code == "BLOB_UPLOAD_UNKNOWN"


def test_the_last_chunk_may_come_with_the_put(client: Client) -> None:
    location = start(client)
    client("PATCH", location, BLOB[:1000])
    rest = {"Content_Range": f"1000-{len(BLOB) - 1}"}
    assert client("PUT", f"{location}?digest={DIGEST}", BLOB[1000:], **rest).status == 201


def test_chunks_out_of_order(client: Client) -> None:
    location = start(client)
    assert client("PATCH", location, BLOB[:1000], Content_Range="0-999").status == 202
    for stated in ("0-999", "2000-2999", "nonsense"):
        answer = client("PATCH", location, BLOB[1000:2000], Content_Range=stated)
        assert (answer.status, answer.code) == (416, "BLOB_UPLOAD_INVALID")
    assert client("PATCH", location, b"abc", Content_Range="1000-1999").code == "SIZE_INVALID"
    assert client("GET", location).headers["Range"] == "0-999"
    assert client("PUT", f"{location}?digest={DIGEST}", BLOB[1000:]).status == 201


def test_a_streamed_patch_of_unknown_length(client: Client) -> None:
    location = start(client)
    pieces = (BLOB[i : i + 70_001] for i in range(0, len(BLOB), 70_001))
    answer = client("PATCH", location, pieces, Transfer_Encoding="chunked")
    assert (answer.status, answer.headers["Range"]) == (202, f"0-{len(BLOB) - 1}")
    assert client("PUT", f"{location}?digest={DIGEST}").status == 201


def test_wrong_bytes_leave_nothing(client: Client, layout: Layout) -> None:
    location = start(client)
    answer = client("PUT", f"{location}?digest={DIGEST}", BLOB[1:])
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert not layout.blob_path(DIGEST).exists()
    assert not uploads_of(layout)
    assert client("GET", location).status == 404
    answer = client("POST", f"/v2/a/blobs/uploads/?digest={DIGEST}", b"x")
    assert answer.code == "DIGEST_INVALID"
    assert client("PUT", f"{start(client)}?digest=nonsense").code == "DIGEST_INVALID"
    assert client("PUT", start(client)).code == "DIGEST_INVALID"


def test_a_sha512_blob(client: Client) -> None:
    digest = "sha512:" + hashlib.sha512(BLOB).hexdigest()
    assert client("PUT", f"{start(client)}?digest={digest}", BLOB).status == 201
    assert client("GET", f"/v2/team/a/blobs/{digest}").body == BLOB


def test_mounts(client: Client) -> None:
    client.push(BLOB, "team/a")
    answer = client("POST", f"/v2/team/b/blobs/uploads/?mount={DIGEST}&from=team/a")
    assert (answer.status, answer.headers["Location"]) == (201, f"/v2/team/b/blobs/{DIGEST}")
    assert client("POST", f"/v2/team/b/blobs/uploads/?mount={DIGEST}").status == 201
    answer = client("POST", f"/v2/team/b/blobs/uploads/?mount={ABSENT}&from=team/a")
    assert answer.status == 202
    assert client("PUT", f"{answer.headers['Location']}?digest={ABSENT}", b"absent").status == 201


def test_an_upload_is_cancelled(client: Client, layout: Layout) -> None:
    location = start(client)
    assert client("DELETE", location).status == 204
    assert client("PATCH", location, b"x").code == "BLOB_UPLOAD_UNKNOWN"
    assert not uploads_of(layout)


def test_an_upload_belongs_to_its_repository(client: Client) -> None:
    location = start(client, "team/a").replace("team/a", "team/b")
    assert client("GET", location).status == 404


def test_two_uploads_of_one_blob_at_once(server: RegistryServer, layout: Layout) -> None:
    barrier = threading.Barrier(4)
    answers: list[int] = []

    def upload() -> None:
        client = Client(server)
        location = start(client)
        half = len(BLOB) // 2
        barrier.wait()
        client("PATCH", location, BLOB[:half])
        barrier.wait()
        answers.append(client("PUT", f"{location}?digest={DIGEST}", BLOB[half:]).status)
        client.connection.close()

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [201] * 4
    assert layout.blob_path(DIGEST).read_bytes() == BLOB
    assert not uploads_of(layout)


def test_what_came_before_a_broken_connection_counts(
    client: Client, server: RegistryServer
) -> None:
    location = start(client)
    with raw_connection(server) as broken:
        broken.sendall(
            f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BLOB)}\r\n\r\n".encode()
            + BLOB[:1000]
        )
    deadline = time.monotonic() + 10
    while client("GET", location).headers["Range"] != "0-999":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert client("PATCH", location, BLOB[1000:]).status == 202
    assert client("PUT", f"{location}?digest={DIGEST}").status == 201


@contextlib.contextmanager
def raw_connection(server: RegistryServer) -> Iterator[socket.socket]:
    host, _, port = server.host.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def talk(server: RegistryServer, request: bytes) -> bytes:
    """All that comes back until the server closes."""
    with raw_connection(server) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_expect_100_continue(client: Client, server: RegistryServer) -> None:
    location = start(client)
    head = (
        f"PUT {location}?digest={DIGEST} HTTP/1.1\r\nHost: x\r\n"
        f"Content-Length: {len(BLOB)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    with raw_connection(server) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BLOB)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 201 ")
    # a refused body is not asked for
    answer = talk(server, head.replace(location, "/v2/a/blobs/uploads/none").encode())
    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: +3",
        "Transfer-Encoding: gzip, chunked",
    ],
)
def test_ambiguous_bodies_are_refused(server: RegistryServer, head: str) -> None:
    request = f"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\nabc"
    answer = talk(server, request.encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("chunks", ["xyz\r\n", "3\r\nabcdef\r\n0\r\n\r\n", "\r\n", "f" * 5000])
def test_malformed_chunks(client: Client, server: RegistryServer, chunks: str) -> None:
    request = f"PATCH {start(client)} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = talk(server, (request + chunks).encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"BLOB_UPLOAD_INVALID" in answer


@pytest.mark.parametrize(
    "request_line", ["GET /v2/ HTTP/9.9", "nonsense", "GET //[ HTTP/1.1", "GET /" + "x" * 70_000]
)
def test_malformed_requests(server: RegistryServer, request_line: str) -> None:
    answer = talk(server, f"{request_line}\r\nConnection: close\r\n\r\n".encode())
    assert b'{"errors": [{"code": "UNSUPPORTED"' in answer


def test_abandoned_uploads_are_removed_at_the_start(layout: Layout) -> None:
    partial = layout.path / PARTIAL
    partial.mkdir()
    names = ["upload-old", "upload-new", "0123abcd"]
    for name in names:
        (partial / name).write_bytes(b"x")
    long_ago = time.time() - 25 * 3600
    for name in ("upload-old", "0123abcd"):
        os.utime(partial / name, (long_ago, long_ago))
    with RegistryServer(layout, ("127.0.0.1", 0)) as server:
        assert sorted(p.name for p in partial.iterdir()) == ["0123abcd", "upload-new"]
        client = Client(server)
        start(client)
        client.connection.close()
    # its own do not outlive the server
    assert sorted(p.name for p in partial.iterdir()) == ["0123abcd", "upload-new"]


# manifests


def test_a_manifest_by_tag_and_digest(client: Client, layout: Layout) -> None:
    raw = client.manifest(BLOB)
    digest = sha256(raw)
    answer = client.put(raw, "team/a", "v1", f"{MANIFEST}; charset=utf-8")
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["Location"] == f"/v2/team/a/manifests/{digest}"
    assert "OCI-Subject" not in answer.headers
    for reference in ("v1", digest):
        read = client("GET", f"/v2/team/a/manifests/{reference}")
        assert (read.status, read.body) == (200, raw)
        assert read.headers["Content-Type"] == MANIFEST
        assert read.headers["Docker-Content-Digest"] == digest
        head = client("HEAD", f"/v2/team/a/manifests/{reference}")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(raw)))
    assert layout.tags() == ["team/a:v1"]
    assert client("GET", "/v2/_catalog").json == {"repositories": ["team/a"]}


def test_manifests_that_are_refused(client: Client) -> None:
    raw = client.manifest(BLOB)
    cases = [
        (manifest_of(b"never pushed"), "v1", MANIFEST, 404, "MANIFEST_BLOB_UNKNOWN"),
        (b"no json", "v1", MANIFEST, 400, "MANIFEST_INVALID"),
        (b'{"schemaVersion": 1}', "v1", MANIFEST, 400, "MANIFEST_INVALID"),
        (raw, "v1", INDEX, 400, "MANIFEST_INVALID"),
        (raw, ".v1", MANIFEST, 400, "MANIFEST_INVALID"),
        (raw, ABSENT, MANIFEST, 400, "DIGEST_INVALID"),
        (raw, "sha256:xyz", MANIFEST, 400, "DIGEST_INVALID"),
    ]
    for content, reference, media_type, status, code in cases:
        answer = client.put(content, "team/a", reference, media_type)
        assert (answer.status, answer.code) == (status, code)
    assert client("GET", "/v2/team/a/tags/list").code == "NAME_UNKNOWN"


def test_layers_that_are_never_pushed_may_be_absent(client: Client) -> None:
    client.push(CONFIG)
    foreign = described(b"vendor's", "application/vnd.oci.image.layer.nondistributable.v1.tar")
    assert client.put(manifest_of(layers=[foreign]), "a", "v1").status == 201


def test_a_manifest_over_the_limit(client: Client, server: RegistryServer) -> None:
    answer = client.put(b" " * (MAX_MANIFEST_BYTES + 1), "a", "v1")
    assert (answer.status, answer.code) == (413, "SIZE_INVALID")
    again = Client(server)
    pieces = (b" " * (1 << 20) for _ in range(5))
    answer = again("PUT", "/v2/a/manifests/v1", pieces, Transfer_Encoding="chunked")
    assert answer.status == 413
    again.connection.close()


def test_manifests_that_are_not_there(client: Client) -> None:
    client.push(BLOB)
    for reference in ("v1", ABSENT, ".odd", DIGEST):
        for method in ("GET", "DELETE"):
            answer = client(method, f"/v2/team/a/manifests/{reference}")
            assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")


def test_a_manifest_is_deleted_with_its_blobs_but_not_those_just_sent(
    client: Client, layout: Layout
) -> None:
    raw = client.manifest(BLOB)
    client.put(raw, "team/a", "v1")
    client.put(raw, "team/a", "v2")
    assert client("DELETE", "/v2/team/a/manifests/v2").status == 202
    assert client("DELETE", "/v2/team/a/manifests/v2").status == 404
    assert client("GET", "/v2/team/a/manifests/v1").status == 200
    assert client("DELETE", f"/v2/team/a/manifests/{sha256(raw)}").status == 202
    for reference in ("v1", sha256(raw)):
        assert client("GET", f"/v2/team/a/manifests/{reference}").status == 404
    assert client("GET", "/v2/team/a/tags/list").json == {"name": "team/a", "tags": []}
    # someone may be about to push another manifest for it
    assert layout.blob_path(DIGEST).exists()
    with RegistryServer(layout, ("127.0.0.1", 0)) as fresh:
        other = Client(fresh)
        other.put(raw, "team/a", "v1")
        assert other("DELETE", f"/v2/team/a/manifests/{sha256(raw)}").status == 202
        assert not layout.blob_path(DIGEST).exists()
        other.connection.close()


def test_deleting_here_leaves_other_repositories_alone(client: Client) -> None:
    raw = client.manifest(BLOB)
    client.put(raw, "team/a", "v1")
    client.put(raw, "team/b", "v1")
    assert client("DELETE", f"/v2/team/a/manifests/{sha256(raw)}").status == 202
    assert client("GET", "/v2/team/a/manifests/v1").status == 404
    assert client("GET", "/v2/team/b/manifests/v1").body == raw


def test_a_blob_in_use_stays(client: Client, layout: Layout) -> None:
    raw = client.manifest(BLOB)
    client.put(raw, "team/a", "v1")
    for needed in (DIGEST, sha256(raw)):
        answer = client("DELETE", f"/v2/team/a/blobs/{needed}")
        assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    digest = client.push(b"loose")
    assert client("DELETE", f"/v2/team/a/blobs/{digest}").status == 202
    assert not layout.blob_path(digest).exists()


def test_an_index_and_its_children(client: Client) -> None:
    raw = client.manifest(BLOB)
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": [described(raw, MANIFEST)]}
    ).encode()
    assert client.put(index, "a", "v1", INDEX).code == "MANIFEST_BLOB_UNKNOWN"
    assert client.put(raw, "a", sha256(raw)).status == 201
    assert client.put(index, "a", "v1", INDEX).status == 201
    assert client("GET", "/v2/a/manifests/v1").headers["Content-Type"] == INDEX


# names


def test_a_packed_layout_is_readable_under_any_name(client: Client, layout: Layout) -> None:
    packed = client.manifest(BLOB)
    # as a pack leaves it
    client.put(packed, "models", "v1")
    assert layout.tags() == ["v1"]
    for repository in ("models", "anything", "team/a"):
        assert client("GET", f"/v2/{repository}/manifests/v1").body == packed
        assert client("GET", f"/v2/{repository}/tags/list").json["tags"] == ["v1"]
    other = client.manifest(b"other")
    client.put(other, "team/a", "v1")
    assert client("GET", "/v2/team/a/manifests/v1").body == other
    assert client("GET", "/v2/anything/manifests/v1").body == packed
    assert client("GET", "/v2/_catalog").json == {"repositories": ["models", "team/a"]}
    answer = client("DELETE", "/v2/anything/manifests/v1")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert client("DELETE", "/v2/team/a/manifests/v1").status == 202
    assert client("DELETE", "/v2/models/manifests/v1").status == 202
    assert client("GET", "/v2/anything/manifests/v1").status == 404


def test_a_tag_that_looks_like_a_digest_stands_in_for_nothing(client: Client) -> None:
    raw = client.manifest(BLOB)
    hostile = client.manifest(b"hostile")
    client.put(raw, "a", "v1")
    answer = client.put(hostile, "sha256", sha256(raw).partition(":")[2])
    assert (answer.status, answer.code) == (400, "NAME_INVALID")
    assert client("GET", f"/v2/a/manifests/{sha256(raw)}").body == raw


def test_a_hostile_ref_name_in_the_layout_stands_in_for_nothing(
    client: Client, layout: Layout
) -> None:
    raw, hostile = client.manifest(BLOB), client.manifest(b"hostile")
    client.put(hostile, "a", "evil")
    client.put(raw, "a", "v1")
    entry = Descriptor(MANIFEST, sha256(hostile), len(hostile))
    layout.tag(sha256(raw), entry)
    assert layout.manifest(sha256(raw)).raw == raw
    assert client("GET", f"/v2/a/manifests/{sha256(raw)}").body == raw


def test_tags_come_in_pages(client: Client) -> None:
    raw = client.manifest(BLOB)
    for tag in ("v10", "Beta", "alpha", "v2"):
        client.put(raw, "a", tag)
    path = "/v2/a/tags/list"
    assert client("GET", path).json == {"name": "a", "tags": ["alpha", "Beta", "v10", "v2"]}
    seen: list[str] = []
    following = f"{path}?n=3"
    while following:
        answer = client("GET", following)
        seen += answer.json["tags"]
        link = answer.headers.get("Link", "")
        following = link.removesuffix('>; rel="next"').removeprefix("<")
    assert seen == ["alpha", "Beta", "v10", "v2"]
    nothing = client("GET", f"{path}?n=0")
    assert (nothing.json["tags"], nothing.headers.get("Link")) == ([], None)
    assert client("GET", f"{path}?last=beta").json["tags"] == ["v10", "v2"]
    assert client("GET", f"{path}?n=x").code == "PAGINATION_NUMBER_INVALID"


# referrers


def test_referrers(client: Client) -> None:
    subject = client.manifest(BLOB)
    about = described(subject, MANIFEST)
    path = f"/v2/a/referrers/{sha256(subject)}"
    empty = client("GET", path)
    assert (empty.status, empty.json["manifests"]) == (200, [])
    assert empty.headers["Content-Type"] == INDEX
    signature = client.manifest(subject=about, artifactType="x/signature", annotations={"k": "v"})
    report = client.manifest(b"report", subject=about)
    for raw in (signature, report):
        answer = client.put(raw, "a", sha256(raw))
        assert (answer.status, answer.headers["OCI-Subject"]) == (201, sha256(subject))
    found = {m["digest"]: m for m in client("GET", path).json["manifests"]}
    assert found.keys() == {sha256(signature), sha256(report)}
    assert found[sha256(signature)]["annotations"] == {"k": "v"}
    assert found[sha256(report)]["artifactType"] == "application/vnd.oci.empty.v1+json"
    filtered = client("GET", f"{path}?artifactType=x%2Fsignature")
    assert [m["digest"] for m in filtered.json["manifests"]] == [sha256(signature)]
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert client("GET", "/v2/a/referrers/nonsense").code == "DIGEST_INVALID"


# the server


def test_read_only(layout: Layout) -> None:
    with RegistryServer(layout, ("127.0.0.1", 0), read_only=True) as server:
        client = Client(server)
        for method, path in [
            ("POST", "/v2/a/blobs/uploads/"),
            ("PUT", "/v2/a/manifests/v1"),
            ("DELETE", f"/v2/a/blobs/{ABSENT}"),
        ]:
            answer = client(method, path)
            assert (answer.status, answer.code) == (405, "UNSUPPORTED")
        assert client("GET", "/v2/").status == 200
        client.connection.close()
    assert not (layout.path / PARTIAL).exists()


def test_one_line_a_request_and_no_tricks_in_it(layout: Layout) -> None:
    lines: list[str] = []
    with RegistryServer(layout, ("127.0.0.1", 0), log=lines.append) as server:
        talk(server, b"GET /v2/\x1b[31m\xff HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert lines == ["127.0.0.1 GET /v2/\\x1b[31m\\xff HTTP/1.1 404"]


def test_nothing_is_printed(
    client: Client, server: RegistryServer, capfd: pytest.CaptureFixture[str]
) -> None:
    client("GET", "/v2/")
    client("GET", "/other")
    talk(server, b"nonsense\r\n\r\n")
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_is_an_answer(
    client: Client, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    location = start(client)
    with monkeypatch.context() as patch:
        patch.setattr("ocimodel.server.sessions.os.pwrite", full)
        answer = client("PATCH", location, BLOB)
    assert (answer.status, answer.code) == (507, "UNKNOWN")
    assert client("PATCH", location, BLOB).status == 202


def test_an_address_that_is_taken(server: RegistryServer, layout: Layout) -> None:
    host, _, port = server.host.rpartition(":")
    with pytest.raises(TargetError, match="cannot listen"):
        RegistryServer(layout, (host, int(port)))


def test_a_shutdown_before_and_after_serving(layout: Layout) -> None:
    unused = RegistryServer(layout, ("127.0.0.1", 0))
    unused.shutdown()
    unused.serve_forever()
    server = RegistryServer(layout, ("127.0.0.1", 0))
    with server:
        client = Client(server)
        client("GET", "/v2/")
    # the connection is gone with the server
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        client("GET", "/v2/")
    client.connection.close()
    server.shutdown()


def test_a_signal_handler_may_shut_it_down(tmp_path: Path) -> None:
    program = f"""
import signal
from pathlib import Path
from ocimodel.server import RegistryServer
from ocimodel.store.layout import Layout
server = RegistryServer(Layout(Path({str(tmp_path / "l")!r}), create=True), ("127.0.0.1", 0))
signal.signal(signal.SIGTERM, lambda *_: server.shutdown())
print(server.host, flush=True)
server.serve_forever()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline().startswith(b"127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
