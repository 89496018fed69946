"""A registry behind a slow link: read-only, loopback, shaped, with faults on demand.

Serves any OCI image layout as every repository name that is asked for. Each response
waits `latency_s`, then leaves at no more than `per_connection` bytes a second, all
connections together at no more than `total`. Bytes are paced on deadline clocks, so a
late wake-up is caught up and errors do not add. Standard library only; runs in its own
process, so that it never shares an interpreter lock with what is measured.

    python -m bench.shaper --root LAYOUT --per-connection 50MB/s --total 250MB/s --latency 20ms
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
CONTENT = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)\Z")
TAGS = re.compile(r"/v2/(?P<name>.+)/tags/list\Z")
RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")
REF_NAME = "org.opencontainers.image.ref.name"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SLACK_S = 0.010  # how much lost time a clock may catch up


@dataclass(frozen=True, slots=True)
class Link:
    """What the link lets through; a rate of 0 means no limit."""

    per_connection: float = 50e6
    total: float = 250e6
    latency_s: float = 0.020


@dataclass(frozen=True, slots=True)
class Faults:
    """What the server does wrong. `stall_times` counts responses; -1 means every one."""

    ignore_range: bool = False
    stall_after: int | None = None
    stall_times: int = -1


def parse_size(text: str) -> int:
    """Bytes of '50MB', '64MiB' or '4096'; a trailing '/s' is allowed."""
    match = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)(?:/s)?", text.strip())
    if not match or match[2].upper() not in UNITS:
        raise argparse.ArgumentTypeError(f"not a size or rate: {text!r} (say 50MB/s or 64MiB)")
    return int(float(match[1]) * UNITS[match[2].upper()])


def parse_duration(text: str) -> float:
    """Seconds of '20ms', '0.5s' or '0'."""
    match = re.fullmatch(r"([\d.]+)\s*(ms|s|)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"not a duration: {text!r} (say 20ms)")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


class Pace:
    """A deadline clock: says when the next n bytes are through. Safe between threads."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    def take(self, n_bytes: int) -> None:
        """Sleep until n_bytes more have passed."""
        if not self._bytes_per_s:
            return
        with self._lock:
            start = max(self._free_at, time.monotonic() - SLACK_S)
            self._free_at = due = start + n_bytes / self._bytes_per_s
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)


class Layout:
    """Read side of an OCI image layout."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._descriptors = json.loads((root / "index.json").read_bytes())["manifests"]

    def blob(self, digest: str) -> Path | None:
        path = self._root / "blobs" / "sha256" / digest.removeprefix("sha256:")
        return path if DIGEST.match(digest) and path.is_file() else None

    def tags(self) -> list[str]:
        names = (d.get("annotations", {}).get(REF_NAME, "") for d in self._descriptors)
        return sorted({name.rpartition(":")[2] for name in names if name})

    def manifest(self, reference: str) -> tuple[str, str] | None:
        """The digest and media type behind a tag or a digest."""
        if DIGEST.match(reference):
            return (reference, self._type_of(reference)) if self.blob(reference) else None
        for descriptor in self._descriptors:
            name = descriptor.get("annotations", {}).get(REF_NAME, "")
            if name == reference or name.endswith(":" + reference):
                return descriptor["digest"], descriptor.get("mediaType", MANIFEST_TYPE)
        return None

    def _type_of(self, digest: str) -> str:
        for descriptor in self._descriptors:
            if descriptor["digest"] == digest:
                return str(descriptor.get("mediaType", MANIFEST_TYPE))
        path = self.blob(digest)
        document: Any = None
        if path and path.stat().st_size <= 4 << 20:
            with suppress(ValueError):
                document = json.loads(path.read_bytes())
        found = document.get("mediaType") if isinstance(document, dict) else None
        return str(found or MANIFEST_TYPE)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The first byte and the length of a single range; None when it cannot be satisfied."""
    match = RANGE.match(header.strip())
    if not match or match[1] == match[2] == "":
        return None
    if match[1] == "":
        length = min(int(match[2]), size)
        return (size - length, length) if length else None
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    return (first, last - first + 1) if first <= last else None


@dataclass(slots=True)
class Counters:
    """What passed since the start: read at /_stats, which is neither counted nor shaped."""

    requests: int = 0
    connections: int = 0
    open: int = 0
    most_open: int = 0
    body_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *, requests: int = 0, opened: int = 0, body_bytes: int = 0) -> None:
        with self.lock:
            self.requests += requests
            self.connections += max(opened, 0)
            self.open += opened
            self.most_open = max(self.most_open, self.open)
            self.body_bytes += body_bytes

    def as_json(self) -> bytes:
        names = ("requests", "connections", "most_open", "body_bytes")
        return json.dumps({name: getattr(self, name) for name in names}).encode()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], layout: Layout, link: Link, faults: Faults):
        super().__init__(address, Handler)
        self.layout, self.link, self.faults = layout, link, faults
        self.total = Pace(link.total)
        self.counters = Counters()
        self._stalls_left = faults.stall_times

    def may_stall(self) -> bool:
        """True when this response is one to stall; counts it."""
        with self.counters.lock:
            if self.faults.stall_after is None or self._stalls_left == 0:
                return False
            self._stalls_left -= 1
            return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no news; anything else is."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    server_version = "ocimodel-shaper"

    def setup(self) -> None:
        super().setup()
        self.pace = Pace(self.server.link.per_connection)
        self.server.counters.add(opened=1)

    def finish(self) -> None:
        self.server.counters.add(opened=-1)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        """Be silent: a line a request would be CPU time of the measured machine."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/_stats":
            return self._small(200, self.server.counters.as_json())
        self.server.counters.add(requests=1)
        time.sleep(self.server.link.latency_s)
        if path in ("/v2", "/v2/"):
            return self._small(200, b"{}")
        if match := TAGS.match(path):
            document = {"name": match["name"], "tags": self.server.layout.tags()}
            return self._small(200, json.dumps(document).encode())
        if not (match := CONTENT.match(path)):
            return self._error(404, "UNSUPPORTED")
        if match["kind"] == "manifests":
            return self._manifest(match["reference"])
        return self._blob(match["reference"])

    do_HEAD = do_GET  # noqa: N815 (the base class finds it by this name)

    def do_PUT(self) -> None:
        self.close_connection = True  # whatever body follows is not read
        self._error(405, "UNSUPPORTED")

    do_POST = do_PATCH = do_DELETE = do_PUT  # noqa: N815

    def _manifest(self, reference: str) -> None:
        found = self.server.layout.manifest(reference)
        path = self.server.layout.blob(found[0]) if found else None
        if not found or not path:
            return self._error(404, "MANIFEST_UNKNOWN")
        size = path.stat().st_size
        self._head(200, size, found[1], {"Docker-Content-Digest": found[0]})
        return self._body(path, 0, size, stall=False)

    def _blob(self, digest: str) -> None:
        path = self.server.layout.blob(digest)
        if not path:
            return self._error(404, "BLOB_UNKNOWN")
        size = path.stat().st_size
        headers = {"Docker-Content-Digest": digest, "Accept-Ranges": "bytes", "ETag": f'"{digest}"'}
        asked = None if self.server.faults.ignore_range else self.headers.get("Range")
        span = parse_range(asked, size) if asked else (0, size)
        if not span:
            return self._error(416, "RANGE_INVALID", {"Content-Range": f"bytes */{size}"})
        start, length = span
        if asked:
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
        self._head(206 if asked else 200, length, "application/octet-stream", headers)
        return self._body(path, start, length, stall=True)

    def _head(self, status: int, length: int, media_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _small(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(body), "application/json", headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        body = {"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}
        self._small(status, json.dumps(body).encode(), headers)

    def _body(self, path: Path, start: int, length: int, *, stall: bool) -> None:
        if self.command == "HEAD":
            return
        limit = length
        stall = stall and self.server.may_stall()
        if stall:
            limit = min(length, self.server.faults.stall_after or 0)
        with path.open("rb") as file:
            self._send(file.fileno(), start, limit)
        if stall and limit < length:
            self._hold()

    def _send(self, fd: int, offset: int, length: int) -> None:
        slice_bytes = pick_slice(self.server.link)
        out = self.connection.fileno()
        end = offset + length
        while offset < end:
            take = min(slice_bytes, end - offset)
            self.pace.take(take)
            self.server.total.take(take)
            goal = offset + take
            while offset < goal:
                offset += os.sendfile(out, fd, offset, goal - offset)
            self.server.counters.add(body_bytes=take)

    def _hold(self) -> None:
        """Keep the connection open and silent until the client gives up."""
        self.close_connection = True
        with suppress(OSError):
            while self.connection.recv(4096):
                pass


def pick_slice(link: Link) -> int:
    """Bytes written at once: about 4 ms of a connection, 16 to 256 KiB."""
    rate = link.per_connection or link.total
    return int(min(max(rate * 0.004, 16 << 10), 256 << 10)) if rate else 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.shaper", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--root", type=Path, required=True, help="OCI image layout to serve")
    parser.add_argument("--listen", default="127.0.0.1:0", help="address, port 0 = any free one")
    parser.add_argument("--per-connection", type=parse_size, default=50 * 10**6, metavar="RATE")
    parser.add_argument("--total", type=parse_size, default=250 * 10**6, metavar="RATE")
    parser.add_argument("--latency", type=parse_duration, default=0.020, metavar="TIME")
    parser.add_argument("--ignore-range", action="store_true", help="answer Range with 200")
    parser.add_argument(
        "--stall-after", type=parse_size, help="fall silent after N bytes of a blob"
    )
    parser.add_argument("--stall-times", type=int, default=-1, help="how many responses stall")
    parser.add_argument("--until-eof", action="store_true", help="end when stdin is closed")
    args = parser.parse_args()
    host, _, port = args.listen.rpartition(":")
    link = Link(args.per_connection, args.total, args.latency)
    faults = Faults(args.ignore_range, args.stall_after, args.stall_times)
    server = Server((host, int(port)), Layout(args.root), link, faults)
    print("listening on {}:{}".format(*server.server_address[:2]), flush=True)
    if args.until_eof:
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    with suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=60)


@contextmanager
def shaped(root: Path, link: Link | None = None, faults: Faults | None = None) -> Iterator[str]:
    """Serve the layout in a process of its own; gives 'host:port', ends it afterwards."""
    link, faults = link or Link(), faults or Faults()
    argv = [sys.executable, str(Path(__file__).resolve()), "--root", str(root), "--until-eof"]
    argv += ["--per-connection", str(int(link.per_connection)), "--total", str(int(link.total))]
    argv += ["--latency", f"{link.latency_s}s", "--stall-times", str(faults.stall_times)]
    argv += ["--ignore-range"] if faults.ignore_range else []
    argv += [] if faults.stall_after is None else ["--stall-after", str(faults.stall_after)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            line = child.stdout.readline() if child.stdout else ""
            if not line.startswith("listening on "):
                raise RuntimeError("the shaping server did not start")
            yield line.split()[-1]
        finally:
            child.terminate()


if __name__ == "__main__":
    main()
