from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.output import Output
from ocimodel.cli.text import human, table

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def ls(
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="host[:port]/repo, or oci:PATH")
    ],
    long: Annotated[bool, typer.Option("--long", "-l", help="Digests and sizes too.")] = False,
    *,
    client: "ClientOptions",
    out: Output,
) -> None:
    """List the tags of a repository or layout."""
    import ocimodel

    tags = ocimodel.ls(repository, long=long, client=client, observer=out.notices)
    document = {
        "reference": repository,
        "tags": [
            {"tag": t.name, "digest": t.digest, "size": t.size} if long else {"tag": t.name}
            for t in tags
        ],
    }
    rows = [(t.name, t.digest, human(t.size)) if long else (t.name,) for t in tags]
    lines = table(rows, right=frozenset({2}))
    out.result(document, lines, "\n".join(t.name for t in tags))
