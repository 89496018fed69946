from typing import TYPE_CHECKING

from ocimodel.cli.options import ReferenceArgument
from ocimodel.cli.output import Output

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def rm(reference: ReferenceArgument, *, client: "ClientOptions", out: Output) -> None:
    """Remove a tag, or by digest the whole artifact.

    In a layout an artifact goes with its last tag. A registry collects its garbage itself.
    """
    import ocimodel
    from ocimodel.spec.reference import parse_reference

    removed = ocimodel.rm(reference, client=client, observer=out.notices)
    pinned = str(parse_reference(removed.reference).at(removed.digest))
    document = {
        "reference": removed.reference,
        "digest": removed.digest,
        "pinned": pinned,
        "deleted": removed.deleted,
    }
    what = "deleted" if removed.deleted else "untagged"
    out.result(document, [f"{what} {removed.reference}", f"digest {removed.digest}"], pinned)
