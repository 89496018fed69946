from pathlib import Path
from typing import Annotated

import typer

from ocimodel.cli.output import Output


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The model directory.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an ocimodel.yaml.")] = False,
    *,
    out: Output,
) -> None:
    """Write a commented ocimodel.yaml into a model directory."""
    import ocimodel

    made = ocimodel.init(directory, force=force)
    found = made.described
    document = {
        "path": str(made.path),
        "format": found.format,
        "paramSize": found.param_size,
        "precision": found.precision,
        "architecture": found.architecture,
        "family": found.family,
        "systems": list(made.systems),
    }
    facts = [v for v in (found.format, found.family, found.param_size, found.precision) if v]
    text = [
        f"wrote {made.path}",
        f"found: {', '.join(facts) or 'no weights'}; {', '.join(made.systems) or 'no git or DVC'}",
        f"next: ocimodel push {directory} HOST/REPO:TAG",
    ]
    out.result(document, text, str(made.path))
