"""The passphrase of a key: from a person at a terminal, where COSIGN_PASSWORD does not give it."""

from __future__ import annotations

import sys

import typer

from ocimodel.errors import UsageError


def ask(what: str) -> bytes:
    """The passphrase of `what`."""
    return _prompt(f"Passphrase of {what}", confirm=False)


def choose(what: str) -> bytes:
    """A new passphrase, typed twice."""
    return _prompt(f"New passphrase of {what}", confirm=True)


def _prompt(text: str, *, confirm: bool) -> bytes:
    if not sys.stdin.isatty():
        raise UsageError(
            f"no terminal to ask: {text.lower()}", hint="set COSIGN_PASSWORD; it may be empty"
        )
    answer: str = typer.prompt(
        text, hide_input=True, err=True, confirmation_prompt=confirm, default="", show_default=False
    )
    return answer.encode()
