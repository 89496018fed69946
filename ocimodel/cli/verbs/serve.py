import signal
from typing import Annotated

import typer

from ocimodel.cli.output import Output, flush


def serve(
    reference: Annotated[str, typer.Argument(metavar="REF", help="oci:PATH")],
    listen: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", envvar="OCIMODEL_LISTEN", help="HOST:PORT; port 0 takes a free one."
        ),
    ] = "127.0.0.1:5000",
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse every change.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log each request.")] = False,
    *,
    out: Output,
) -> None:
    """Serve a layout as a registry on loopback.

    For development and air-gapped use: it has no TLS and no passwords.
    """
    import ocimodel

    log = out.note if verbose else None
    server = ocimodel.serve(reference, listen=listen, read_only=read_only, log=log)
    # before anyone hears of it, so that whoever does may end it
    signal.signal(signal.SIGTERM, lambda *_: server.shutdown())
    if not server.loopback:
        can = "read" if read_only else "read, push and delete"
        out.warn(f"anyone who reaches {server.host} can {can}")
    document = {"reference": reference, "host": server.host}
    out.result(document, [f"serving {reference} at {server.host}; stop with Ctrl-C"], server.host)
    flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.shutdown()
