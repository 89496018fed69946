"""Real registries and the adversaries in front of them, for the tests and the benchmarks.

A server is a context manager on a free loopback port:

    with DockerRegistry(tmp) as registry, FaultProxy(registry.url) as proxy:
        proxy.add(faults.Drop(after_bytes=100), method="GET", path="/blobs/")
"""
