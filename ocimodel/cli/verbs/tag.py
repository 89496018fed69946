from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.options import ForceTag, ReferenceArgument
from ocimodel.cli.output import Output

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def tag(
    reference: ReferenceArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new tag.")],
    force_tag: ForceTag = False,
    *,
    client: "ClientOptions",
    out: Output,
) -> None:
    """Give an artifact another tag in its repository."""
    import ocimodel

    tagged = ocimodel.tag(reference, name, force_tag=force_tag, client=client, observer=out.notices)
    document = {
        "reference": tagged.reference,
        "digest": tagged.digest,
        "pinned": tagged.pinned,
        "previous": tagged.previous,
    }
    text = [f"tagged {tagged.reference}", f"digest {tagged.digest}"]
    if tagged.previous not in ("", tagged.digest):
        text.append(f"before {tagged.previous}")
    out.result(document, text, tagged.pinned)
