from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from ocimodel.cli.output import COMPLETE, Output


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
    *,
    out: Output,
) -> None:
    """Print a completion script for a shell.

    bash: source <(ocimodel completion bash)

    zsh, after compinit: source <(ocimodel completion zsh)

    fish: ocimodel completion fish | source
    """
    script = completion_of_typer("get_completion_script")(
        prog_name="ocimodel", complete_var=COMPLETE, shell=shell.value
    )
    out.result({"shell": shell.value, "script": script}, [script], script)


def completion_of_typer(name: str) -> Callable[..., Any]:
    """One of the functions behind typer's own option, which would print hints around the script."""
    from typer import completion as typer_completion

    function: Callable[..., Any] = getattr(typer_completion, name)
    return function
