from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.options import ReferenceArgument
from ocimodel.cli.output import Output

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def cat(
    reference: ReferenceArgument,
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file in the artifact.")],
    *,
    client: "ClientOptions",
    mirrors: tuple[str, ...],
    out: Output,
) -> None:
    """Print one file of an artifact, once it is verified."""
    import base64
    import io

    import ocimodel

    if not out.as_json:
        ocimodel.cat(reference, path, out.content(), client=client, observer=out.notices)
        return
    content = io.BytesIO()
    found = ocimodel.cat(reference, path, content, client=client, observer=out.notices)
    document = {
        "reference": found.reference,
        "digest": found.digest,
        "pinned": found.pinned,
        "path": found.path,
        "size": found.size,
        "base64": base64.b64encode(content.getvalue()).decode(),
    }
    out.result(document, ())
