import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.output import Output
from ocimodel.errors import UsageError

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions

HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="A registry: host[:port].")]


def login(
    host: HostArgument,
    username: Annotated[
        str,
        typer.Option(
            "--username", "-u", metavar="NAME", envvar="OCIMODEL_USERNAME", help="User name."
        ),
    ] = "",
    password: Annotated[
        str,
        typer.Option(
            "--password",
            "-p",
            metavar="SECRET",
            envvar="OCIMODEL_PASSWORD",
            help="Password or token; others can see it in the process list.",
        ),
    ] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    identity_token: Annotated[
        bool, typer.Option("--identity-token", help="The password is an OAuth2 refresh token.")
    ] = False,
    *,
    client: "ClientOptions",
    out: Output,
) -> None:
    """Check credentials and store them where docker does."""
    import ocimodel

    if not username and not identity_token:
        username = _ask("User name: ", hidden=False)
    secret = sys.stdin.read().rstrip("\r\n") if password_stdin else password
    secret = secret or _ask("Password: ", hidden=True)
    done = ocimodel.login(
        host, "" if identity_token else username, secret, client=client, observer=out.notices
    )
    document = {"host": done.host, "username": done.username, "stored": done.stored}
    out.result(document, [f"logged in to {done.host}; credentials are in {done.stored}"])


def logout(host: HostArgument, *, client: "ClientOptions", out: Output) -> None:
    """Forget the stored credentials of a registry."""
    import ocimodel

    done = ocimodel.logout(host, client=client)
    document = {"host": done.host, "stored": done.stored, "removed": done.removed}
    gone = f"logged out of {done.host}" if done.removed else f"was not logged in to {done.host}"
    out.result(document, [gone])


def _ask(prompt: str, *, hidden: bool) -> str:
    if not sys.stdin.isatty():
        raise UsageError(
            "no terminal to ask for credentials",
            hint="ocimodel login HOST -u USER --password-stdin < FILE",
        )
    answer: str = typer.prompt(prompt.rstrip(": "), hide_input=hidden, err=True)
    return answer
