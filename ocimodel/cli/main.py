"""The program: verbs in the order in which a person meets them, settings, and the version."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Annotated, Any, cast

import typer

from ocimodel import __version__
from ocimodel.cli.output import COMPLETE, INTERRUPTED, Output
from ocimodel.cli.settings import FileSettings
from ocimodel.cli.verb import verb
from ocimodel.errors import OcimodelError, UsageError

# typer hides click's exceptions; this is the base of what is wrong with a command line
_USAGE = cast(type[Exception], typer.BadParameter.__mro__[1])
# function and module of each verb, in the order of the help; loaded when it is asked for
VERBS = {
    name: name
    for name in (
        "init", "pack", "push", "pull", "mount", "trace", "copy", "inspect", "diff", "keygen",
        "sign",
        "attest", "verify", "cat", "ls", "tag", "rm", "login", "logout", "serve", "doctor",
        "completion", "cache_ls", "cache_gc",
    )
} | {"logout": "login", "cache_ls": "cache", "cache_gc": "cache"}  # fmt: skip
# these have no settings
_UNSET = ("init", "keygen", "completion", "serve")
# the first word of verbs that have two
GROUPS = {"cache": "See and bound the folder of blobs that pulls share."}
_CONTEXT = {"help_option_names": ["-h", "--help"]}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ocimodel {__version__}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print it and exit."
        ),
    ] = False,
) -> None:
    """Ship models as signed OCI artifacts, with any container registry."""


def program(names: Iterable[str] = VERBS) -> typer.Typer:
    """The command line with these verbs; building all of them takes a while."""
    # plain help and tracebacks: rich would double the time to start
    app = typer.Typer(
        name="ocimodel",
        help=_program.__doc__,
        epilog="Exit codes: 0 ok, 1 internal, 2 usage, 3 not found, 4 authentication, 5 network or "
        "registry, 6 integrity, 7 signature or policy, 8 lineage, 9 conflict, 10 bad input, "
        "130 interrupted.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings=_CONTEXT,
    )
    app.callback()(_program)
    groups = {"": app}
    for name in names:
        group, _, word = name.rpartition("_")
        if group not in groups:
            groups[group] = typer.Typer(
                help=GROUPS[group], rich_markup_mode=None, context_settings=_CONTEXT
            )
            app.add_typer(groups[group], name=group)
        groups[group].command(word, context_settings=_CONTEXT)(verb(_function(name)))
    return app


def _function(name: str) -> Callable[..., None]:
    module = import_module(f"ocimodel.cli.verbs.{VERBS[name]}")
    return cast(Callable[..., None], getattr(module, name))


def _asked_for(arguments: list[str]) -> list[str]:
    """The verb that the command line begins with; all where it does not, or help may show them."""
    first = arguments[0] if arguments and COMPLETE not in os.environ else ""
    return [n for n in VERBS if first in (n, n.partition("_")[0])] or list(VERBS)


def main() -> None:
    """The console script. Ends the process with the exit code that the outcome has."""
    arguments = sys.argv[1:]
    # a container's first process is not ended by SIGTERM unless it says how
    signal.signal(signal.SIGTERM, _interrupt)
    if COMPLETE in os.environ:
        from ocimodel.cli.verbs.completion import completion_of_typer

        completion_of_typer("completion_init")()
    try:
        app = program(_asked_for(arguments))
        code = app(prog_name="ocimodel", default_map=_defaults(arguments), standalone_mode=False)
    except KeyboardInterrupt:
        _output(arguments).interrupted()
        code = INTERRUPTED
    except OcimodelError as error:
        # from the settings, before any verb ran
        _output(arguments).error(error)
        code = error.exit_code
    except _USAGE as error:
        code = _explain(error, arguments)
    sys.exit(code or 0)


def _explain(error: Any, arguments: list[str]) -> int:
    """Say what is wrong with the command line; without any arguments, what there is."""
    if not arguments:
        error.show()
    else:
        message = " ".join(error.format_message().split())
        _output(arguments).error(UsageError(message, hint=_usage(error.ctx)))
    return UsageError.exit_code


def _usage(context: Any) -> str:
    """One line: how the command is written, and where more stands."""
    if context is None:
        return "ocimodel --help"
    words = context.get_usage().translate(str.maketrans("", "", "{}")).split()
    return f"{' '.join(words[1:])}; more: {context.command_path} --help"


def _output(arguments: list[str]) -> Output:
    """Where to say what went wrong before a verb could."""
    words = [word for word in arguments if not word.startswith("-")]
    name = "-".join(words[: 2 if words[0] in GROUPS else 1]) if words else ""
    return Output(name, as_json="--json" in arguments, quiet=False)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _defaults(arguments: list[str]) -> dict[str, Any]:
    """What the settings files say, for the verbs that have settings; help does not depend on it."""
    if COMPLETE in os.environ or not {"-h", "--help"}.isdisjoint(arguments):
        return {}
    values = FileSettings()
    found: dict[str, Any] = {word: {} for word in GROUPS}
    for name in VERBS:
        if name not in _UNSET:
            group, _, word = name.rpartition("_")
            (found[group] if group else found)[word] = values
    return found


if __name__ == "__main__":
    main()
