from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.options import REFERENCE_HELP
from ocimodel.cli.output import Output

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=f"{REFERENCE_HELP}, or a model directory.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if they differ, as git does.")
    ] = False,
    *,
    client: "ClientOptions",
    mirrors: tuple[str, ...],
    out: Output,
) -> None:
    """Show how two models differ; fetches no weights."""
    import ocimodel
    from ocimodel.cli.difference import document, text

    found = ocimodel.diff(a, b, client=client, observer=out.observer)
    differs = found.difference.differs
    out.result(document(found), text(found), "different" if differs else "same")
    if exit_code and differs:
        raise typer.Exit(1)
