"""Writes docs/cli.md from the program itself: `python -m ocimodel.cli.docs [--check] FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from ocimodel.cli.main import app

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
    program = typer.main.get_command(app)
    context = program.make_context("ocimodel", [], resilient_parsing=True, terminal_width=90)
    parts = [_INTRODUCTION, _section("ocimodel", program.get_help(context))]
    for name in program.list_commands(context):  # type: ignore[attr-defined]
        command = program.get_command(context, name)  # type: ignore[attr-defined]
        below = command.make_context(name, [], context, resilient_parsing=True, terminal_width=90)
        parts.append(_section(f"ocimodel {name}", command.get_help(below)))
    return "\n".join(parts)


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
