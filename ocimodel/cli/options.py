"""Options that several verbs share, each with its environment variable."""

from __future__ import annotations

from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import typer

CONNECTION = "Connection"
OUTPUT = "Output"

DirectoryArgument = Annotated[Path, typer.Argument(help="A model directory.")]
ReferenceArgument = Annotated[
    str, typer.Argument(help="host[:port]/repo[:tag][@sha256:…] or oci:PATH[:TAG][@sha256:…]")
]
Concurrency = Annotated[
    int,
    typer.Option(min=1, max=64, envvar="OCIMODEL_CONCURRENCY", help="Streams at a time."),
]
ForceTag = Annotated[
    bool, typer.Option("--force-tag", help="Move a tag that points to other content.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what would be.")]
Rehash = Annotated[
    bool,
    typer.Option("--rehash", help="Read every file, even those unchanged since the last time."),
]
Compat = Annotated[
    bool,
    typer.Option(
        "--compat",
        envvar="OCIMODEL_COMPAT",
        help="Write a manifest for registries that refuse unknown types (GitLab).",
    ),
]


def _option(name: str, kind: Any, default: Any, *flags: str, panel: str, **more: Any) -> Parameter:
    info = typer.Option(*flags, rich_help_panel=panel, **more)
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _connection(name: str, kind: Any, default: Any, *flags: str, **more: Any) -> Parameter:
    envvar = f"OCIMODEL_{name.upper()}"
    return _option(name, kind, default, *flags, panel=CONNECTION, envvar=envvar, **more)


# how to reach registries; ops.access turns these into ClientOptions
CONNECTION_OPTIONS = (
    _connection("plain_http", bool, False, "--plain-http", help="No TLS; implied on loopback."),
    _connection("insecure", bool, False, "--insecure", help="Accept any TLS certificate."),
    _connection(
        "ca_file", Path | None, None, "--ca-file", help="Certificate authorities to trust too."
    ),
    _connection("client_cert", Path | None, None, "--client-cert", help="TLS client certificate."),
    _connection("client_key", Path | None, None, "--client-key", help="Its private key."),
    _connection(
        "registry_config",
        Path | None,
        None,
        "--registry-config",
        help="Credentials file, or folder with a mounted .dockerconfigjson.",
    ),
    _connection("timeout", float, 60.0, "--timeout", min=1, help="Seconds without any byte."),
    _connection("retries", int, 4, "--retries", min=0, max=20, help="Further tries a request."),
)
MIRROR_OPTION = _connection(
    "mirror",
    list[str],
    (),
    "--mirror",
    help="Pull from this host first; repeatable. All it sends is verified.",
)
OUTPUT_OPTIONS = (
    _option("json", bool, False, "--json", panel=OUTPUT, help="Print one JSON object."),
    _option("quiet", bool, False, "--quiet", "-q", panel=OUTPUT, help="Print only the result."),
)
