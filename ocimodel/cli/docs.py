"""Writes docs/cli.md from the program itself: `python -m ocimodel.cli.docs [--check] FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from ocimodel.cli.main import program

_INTRODUCTION = """\
# The command line

Made by `make docs` from the program; `make check` fails when the two differ.

Results go to standard output, progress and messages to standard error. `--json` prints one object
with a `schema` member, `-q` only the essence, such as `host/repo@sha256:…`. A setting comes from
the flag, else from its variable (`OCIMODEL_…`), else from `settings:` in `./ocimodel.yaml`, else
from the user's `~/.config/ocimodel/config.yaml`, else it has its default.
"""


def render() -> str:
    """The page. Help is laid out for 90 columns, whatever the terminal."""
    command = typer.main.get_command(program())
    context = command.make_context("ocimodel", [], resilient_parsing=True, terminal_width=90)
    return "\n".join([_INTRODUCTION, *_sections("ocimodel", command, context)])


def _sections(title: str, command: Any, context: Any) -> Iterator[str]:
    """The help of a command, and of all that are below it."""
    yield _section(title, command.get_help(context))
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        found = command.get_command(context, name)
        below = found.make_context(name, [], context, resilient_parsing=True, terminal_width=90)
        yield from _sections(f"{title} {name}", found, below)


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    path = Path(next(a for a in arguments if not a.startswith("-")))
    page = render()
    if not check:
        path.write_text(page, encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == page:
        return 0
    sys.stderr.write(f"{path} is not what the program says: run make docs\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
