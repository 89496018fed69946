"""Check the shaping server against the clock: rates, ranges, faults; prints the figures.

python -m bench.check_shaper
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import resource
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench.shaper import Faults, Link, shaped

MIB = 1 << 20


def make_layout(root: Path, n_bytes: int) -> str:
    """A layout with one blob of n_bytes, tagged `t` as if it were a manifest."""
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    body = os.urandom(MIB) * (n_bytes // MIB)
    digest = hashlib.sha256(body).hexdigest()
    (blobs / digest).write_bytes(body)
    names = {"org.opencontainers.image.ref.name": "t"}
    entry = {"digest": f"sha256:{digest}", "mediaType": "application/json", "annotations": names}
    (root / "index.json").write_text(json.dumps({"manifests": [entry]}))
    return f"sha256:{digest}"


def fetch(host: str, digest: str, span: tuple[int, int] | None, got: list[int]) -> None:
    """Download, count and drop the bytes; the status goes first."""
    connection = http.client.HTTPConnection(host, timeout=30)
    headers = {"Range": f"bytes={span[0]}-{span[1]}"} if span else {}
    connection.request("GET", f"/v2/any/blobs/{digest}", headers=headers)
    answer = connection.getresponse()
    buffer = memoryview(bytearray(256 << 10))
    total = 0
    while n_bytes := answer.readinto(buffer):
        total += n_bytes
    got.extend((answer.status, total))
    connection.close()


def timed(host: str, digest: str, size: int, connections: int) -> float:
    """Seconds for the blob in as many equal ranges as connections."""
    step = size // connections
    spans = [(i * step, (i + 1) * step - 1) for i in range(connections)]
    results: list[list[int]] = [[] for _ in spans]
    jobs = zip(spans, results, strict=True)
    threads = [threading.Thread(target=fetch, args=(host, digest, s, r)) for s, r in jobs]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    assert all(result == [206, step] for result in results), results
    return seconds


def check_rate(root: Path, digest: str, size: int, connections: int, allowed: float) -> bool:
    link = Link()
    rate = min(link.total, connections * link.per_connection)
    expected = size / rate + link.latency_s
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with shaped(root, link) as host:
        seconds = timed(host, digest, size, connections)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    error = seconds / expected - 1
    verdict = "ok" if abs(error) <= allowed else "MISS"
    print(
        f"{connections} connection(s), {size // MIB} MiB: {seconds:.3f} s, expected "
        f"{expected:.3f} s, {error:+.1%} (allowed {allowed:.0%}), server CPU {cpu:.2f} s: {verdict}"
    )
    return verdict == "ok"


def check_faults(root: Path, digest: str, size: int) -> bool:
    """Range ignored, ranges refused, a stall."""
    fast = Link(0, 0, 0)
    got: list[int] = []
    with shaped(root, fast, Faults(ignore_range=True)) as host:
        fetch(host, digest, (0, 9), got)
    with shaped(root, fast) as host:
        fetch(host, digest, (size, size + 9), got)
        fetch(host, digest, (size - 5, size + 9), got)
    ranges = got[:3] == [200, size, 416] and got[4:] == [206, 5]
    stalled = stalls_at(root, digest, 100_000)
    print(f"range ignored, refused, clipped: {'ok' if ranges else got}")
    print(f"silent after 100000 bytes: {'ok' if stalled else 'MISS'}")
    return ranges and stalled


def stalls_at(root: Path, digest: str, limit: int) -> bool:
    with shaped(root, Link(0, 0, 0), Faults(stall_after=limit)) as host:
        name, _, port = host.rpartition(":")
        with socket.create_connection((name, int(port)), timeout=0.5) as raw:
            raw.sendall(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            received = b""
            try:
                while piece := raw.recv(1 << 16):
                    received += piece
            except TimeoutError:
                return len(received.partition(b"\r\n\r\n")[2]) == limit
    return False


def main() -> int:
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        digest = make_layout(folder / "layout", 256 * MIB)
        small = make_layout(folder / "small", 64 * MIB)
        results = [
            check_rate(folder / "small", small, 64 * MIB, 1, 0.05),
            check_rate(folder / "layout", digest, 256 * MIB, 4, 0.06),
            check_rate(folder / "layout", digest, 256 * MIB, 8, 0.06),
            check_rate(folder / "layout", digest, 256 * MIB, 16, 0.06),
            check_faults(folder / "small", small, 64 * MIB),
        ]
    finally:
        shutil.rmtree(folder)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
