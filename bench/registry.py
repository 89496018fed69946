"""Debian's docker-registry on a free loopback port, its storage where we say."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

ACCEPT = "application/vnd.oci.image.manifest.v1+json"
CONFIG = """\
version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {storage}
  cache:
    blobdescriptor: inmemory
  maintenance:
    uploadpurging:
      enabled: false
http:
  addr: 127.0.0.1:{port}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """An empty registry with storage in `folder`; gives 'host:port', removes all afterwards."""
    folder.mkdir(parents=True)
    port = free_port()
    config = folder / "config.yml"
    config.write_text(CONFIG.format(storage=folder / "storage", port=port))
    binary = shutil.which("docker-registry") or "docker-registry"
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([binary, "serve", str(config)], stdout=log, stderr=log)
    try:
        host = f"127.0.0.1:{port}"
        wait_ready(host, child, folder / "log")
        yield host
    finally:
        child.terminate()
        child.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_ready(host: str, child: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(500):
        if child.poll() is not None:
            break
        with suppress(OSError):
            if get(host, "/v2/")[0] == 200:
                return
        time.sleep(0.02)
    raise RuntimeError(f"docker-registry did not start: {log.read_text()[-500:]}")


def get(host: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """One small request on a connection of its own."""
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request(method, path, headers={"Accept": ACCEPT})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def manifest_of(host: str, repository: str, tag: str) -> dict[str, Any]:
    status, _, body = get(host, f"/v2/{repository}/manifests/{tag}")
    if status != 200:
        raise RuntimeError(f"{host}/{repository}:{tag} answered {status}")
    document: dict[str, Any] = json.loads(body)
    return document


def blob_size(host: str, repository: str, digest: str) -> int:
    """The size that the registry states for a blob; -1 when it has none."""
    status, headers, _ = get(host, f"/v2/{repository}/blobs/{digest}", "HEAD")
    return int(headers.get("content-length", -1)) if status == 200 else -1


def fill(host: str, repository: str, tag: str, layout: Path) -> None:
    """Put what the layout holds (one artifact) into the registry; needs no other tool."""
    index = json.loads((layout / "index.json").read_bytes())
    digest = index["manifests"][0]["digest"]
    body = blob_path(layout, digest).read_bytes()
    manifest = json.loads(body)
    for descriptor in (manifest["config"], *manifest["layers"]):
        upload(host, repository, descriptor["digest"], blob_path(layout, descriptor["digest"]))
    headers = {"Content-Type": manifest["mediaType"]}
    put(host, f"/v2/{repository}/manifests/{tag}", body, headers)


def blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def upload(host: str, repository: str, digest: str, path: Path) -> None:
    status, headers, _ = get(host, f"/v2/{repository}/blobs/uploads/", "POST")
    if status != 202:
        raise RuntimeError(f"starting an upload answered {status}")
    location = headers["location"].removeprefix(f"http://{host}")
    length = {"Content-Length": str(path.stat().st_size)}
    with path.open("rb") as file:
        put(host, f"{location}{'&' if '?' in location else '?'}digest={digest}", file, length)


def put(host: str, path: str, body: bytes | BinaryIO, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection(host, timeout=60, blocksize=1 << 20)
    try:
        connection.request("PUT", path, body, headers)
        answer = connection.getresponse()
        if answer.status != 201:
            raise RuntimeError(f"PUT {path} answered {answer.status}: {answer.read(300)!r}")
    finally:
        connection.close()
