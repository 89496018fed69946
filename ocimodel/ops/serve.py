"""serve: a layout behind the distribution API, for development and air-gapped use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ocimodel.errors import UsageError
from ocimodel.server import RegistryServer
from ocimodel.spec.reference import LayoutReference, parse_reference
from ocimodel.store.layout import Layout

DEFAULT_LISTEN = "127.0.0.1:5000"


def serve(
    reference: str,
    *,
    listen: str = DEFAULT_LISTEN,
    read_only: bool = False,
    log: Callable[[str], None] | None = None,
) -> RegistryServer:
    """A server over `oci:PATH`, made if it is not there; bound to `HOST:PORT`, not yet serving.

    It has no TLS and no authentication: listen on loopback, or behind something that has.
    """
    name = parse_reference(reference)
    if not isinstance(name, LayoutReference):
        raise UsageError(f"{reference} is no layout", hint="write oci:PATH")
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{listen!r} is no HOST:PORT")
    layout = Layout(Path(name.path), create=not read_only)
    return RegistryServer(
        layout, (host.strip("[]") or "127.0.0.1", int(port)), read_only=read_only, log=log
    )
