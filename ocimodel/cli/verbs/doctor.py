from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.options import ReferenceArgument
from ocimodel.cli.output import Output

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def doctor(
    reference: ReferenceArgument,
    write: Annotated[bool, typer.Option("--write", help="Try an upload too.")] = False,
    *,
    client: "ClientOptions",
    out: Output,
) -> None:
    """Try each step between here and a registry."""
    import ocimodel

    diagnosis = ocimodel.doctor(reference, write=write, client=client, observer=out.notices)
    document = {
        "reference": diagnosis.reference,
        "checks": [
            {"name": c.name, "ok": not c.exit_code, "detail": c.detail, "hint": c.hint}
            for c in diagnosis.checks
        ],
        "exitCode": diagnosis.exit_code,
    }
    text = []
    for check in diagnosis.checks:
        text.append(f"{'FAIL' if check.exit_code else 'ok':<5} {check.name}: {check.detail}")
        text += [f"      hint: {check.hint}"] if check.hint else []
    failed = (c for c in diagnosis.checks if c.exit_code)
    out.result(document, text, "\n".join(f"{c.name}: {c.detail}" for c in failed))
    if diagnosis.exit_code:
        raise typer.Exit(diagnosis.exit_code)
