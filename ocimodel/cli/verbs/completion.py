from enum import StrEnum
from typing import Annotated

import typer

from ocimodel.cli.output import Output


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell to complete in.")],
    *,
    out: Output,
) -> None:
    """Print a completion script for a shell.

    In bash: source <(ocimodel completion bash)
    """
    from typer import completion as typer_completion

    # typer has no public function for this, and its own option would print hints around it
    script = typer_completion.get_completion_script(  # type: ignore[attr-defined]
        prog_name="ocimodel", complete_var="_OCIMODEL_COMPLETE", shell=shell.value
    )
    out.result({"shell": shell.value, "script": script}, [script], script)
