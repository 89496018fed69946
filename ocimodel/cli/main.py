"""The program: verbs in the order in which a person meets them, settings, and the version."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from ocimodel import __version__
from ocimodel.cli.verb import verb
from ocimodel.cli.verbs.cat import cat
from ocimodel.cli.verbs.completion import completion
from ocimodel.cli.verbs.copy import copy
from ocimodel.cli.verbs.doctor import doctor
from ocimodel.cli.verbs.init import init
from ocimodel.cli.verbs.inspect import inspect
from ocimodel.cli.verbs.login import login, logout
from ocimodel.cli.verbs.ls import ls
from ocimodel.cli.verbs.pack import pack
from ocimodel.cli.verbs.pull import pull
from ocimodel.cli.verbs.push import push
from ocimodel.cli.verbs.rm import rm
from ocimodel.cli.verbs.serve import serve
from ocimodel.cli.verbs.tag import tag
from ocimodel.errors import OcimodelError

VERBS = (
    init, pack, push, pull, copy, inspect, cat, ls, tag, rm, login, logout, serve, doctor,
    completion,
)  # fmt: skip

# plain help and tracebacks: rich would double the time to start
app = typer.Typer(
    name="ocimodel",
    help="Ship models as signed OCI artifacts, with any container registry.",
    epilog="Exit codes: 0 ok, 1 internal, 2 usage, 3 not found, 4 authentication, 5 network or "
    "registry, 6 integrity, 7 signature or policy, 8 lineage, 9 conflict, 10 bad input, "
    "130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for function in VERBS:
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(verb(function))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ocimodel {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print it and exit."
        ),
    ] = False,
) -> None:
    """Ship models as signed OCI artifacts, with any container registry."""


def main() -> None:
    """The console script. Ends the process with the exit code that the outcome has."""
    try:
        app(default_map=_defaults(), prog_name="ocimodel")
    except OcimodelError as error:
        # from the settings, before any verb ran
        sys.stderr.write(f"error: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        sys.exit(error.exit_code)


def _defaults() -> dict[str, dict[str, object]]:
    from ocimodel.cli.settings import PROJECT_FILE, load, user_file

    if not PROJECT_FILE.is_file() and not user_file(os.environ).is_file():
        return {}
    values = load()
    return {function.__name__: values for function in VERBS}


if __name__ == "__main__":
    main()
