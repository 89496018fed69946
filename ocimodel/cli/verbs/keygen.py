import os
from pathlib import Path
from typing import Annotated

import typer

from ocimodel.cli.output import Output
from ocimodel.cli.passphrase import choose


def keygen(
    prefix: Annotated[
        Path, typer.Argument(metavar="PREFIX", help="Writes PREFIX.key and PREFIX.pub.")
    ] = Path("ocimodel"),
    *,
    out: Output,
) -> None:
    """Make a key pair to sign with, as cosign has them."""
    import ocimodel

    known = os.environ.get("COSIGN_PASSWORD")
    passphrase = choose(f"{prefix}.key") if known is None else known.encode()
    made = ocimodel.keygen(prefix, passphrase=passphrase)
    if not passphrase:
        out.warn(f"{made.private} is protected by nothing but its file permissions")
    document = {
        "private": str(made.private),
        "public": str(made.public),
        "fingerprint": made.fingerprint,
    }
    text = [
        f"private key {made.private}: keep it to yourself",
        f"public key {made.public}: give it to whoever verifies",
        f"fingerprint {made.fingerprint}",
    ]
    out.result(document, text, str(made.public))
