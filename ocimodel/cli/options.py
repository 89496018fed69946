"""Options that several verbs share, each with its environment variable."""

from __future__ import annotations

from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import typer

from ocimodel.cli.sizes import parse_size

# as weights.cuts has it
MAX_LAYER_SIZE: Any = "5G"
# as spec.modelfile has it for the files
MAX_TIMEOUT_S = 86_400
CONNECTION = "Connection"
OUTPUT = "Output"
REFERENCE_HELP = "host[:port]/repo[:tag][@sha256:…] or oci:PATH[:TAG][@sha256:…]"

DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A model directory.")]
ReferenceArgument = Annotated[str, typer.Argument(metavar="REF", help=REFERENCE_HELP)]
Concurrency = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, max=64, envvar="OCIMODEL_CONCURRENCY", help="Streams at a time."
    ),
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
LayeringOption = Annotated[
    str,
    typer.Option(
        "--layering",
        metavar="file|tensor",
        envvar="OCIMODEL_LAYERING",
        help="One layer a file, or weights cut at their tensors: fine-tunes send what changed.",
    ),
]
MaxLayerSize = Annotated[
    int,
    typer.Option(
        "--max-layer-size",
        metavar="SIZE",
        parser=parse_size,
        envvar="OCIMODEL_MAX_LAYER_SIZE",
        help="Cut files that are bigger, such as 5G.",
    ),
]
ProfileOption = Annotated[
    list[str],
    typer.Option(
        "--profile",
        metavar="NAME=FILE",
        help="Keep an access profile, of ocimodel trace, in the artifact; repeatable.",
    ),
]

KEY_HELP = "Public key that must have signed: a PEM file or a KMS name."
KeyOption = Annotated[
    str, typer.Option("--key", metavar="PUB", envvar="OCIMODEL_KEY", help=KEY_HELP)
]
PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        envvar="OCIMODEL_POLICY",
        help="Whose signatures and attestations count, by repository.",
    ),
]
SignerOption = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="KEY",
        envvar="OCIMODEL_SIGNING_KEY",
        help="Private key file, env://VARIABLE, a KMS name such as awskms://…, or keyless:",
    ),
]
TimestampUrl = Annotated[
    str,
    typer.Option(
        "--timestamp-url",
        metavar="URL",
        envvar="OCIMODEL_TIMESTAMP_URL",
        help="RFC 3161 authority that shall witness the time.",
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
        "ca_file",
        Path | None,
        None,
        "--ca-file",
        metavar="FILE",
        help="Certificate authorities to trust too.",
    ),
    _connection(
        "client_cert",
        Path | None,
        None,
        "--client-cert",
        metavar="FILE",
        help="TLS client certificate.",
    ),
    _connection(
        "client_key", Path | None, None, "--client-key", metavar="FILE", help="Its private key."
    ),
    _connection(
        "registry_config",
        Path | None,
        None,
        "--registry-config",
        metavar="PATH",
        help="Credentials file, or folder with a mounted .dockerconfigjson.",
    ),
    _connection(
        "timeout",
        float,
        60.0,
        "--timeout",
        metavar="SECONDS",
        min=1,
        max=MAX_TIMEOUT_S,
        help="Seconds without any byte.",
    ),
    _connection(
        "retries",
        int,
        4,
        "--retries",
        metavar="N",
        min=0,
        max=20,
        help="Further tries a request.",
    ),
)
MIRROR_OPTION = _connection(
    "mirror",
    list[str],
    (),
    "--mirror",
    metavar="HOST",
    help="Pull from this host first; repeatable. All it sends is verified.",
)
OUTPUT_OPTIONS = (
    _option("json", bool, False, "--json", panel=OUTPUT, help="Print one JSON object."),
    _option("quiet", bool, False, "--quiet", "-q", panel=OUTPUT, help="Print only the result."),
)
