"""What makes a function a verb: shared options, declared errors as exit codes, one result."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from inspect import Parameter
from typing import Any

import typer

from ocimodel.cli.options import CONNECTION_OPTIONS, MIRROR_OPTION, OUTPUT_OPTIONS
from ocimodel.cli.output import INTERRUPTED, Output, ReaderLeft
from ocimodel.errors import OcimodelError


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Wrap a function for typer.

    A parameter `out` receives the `Output` and brings its options; `client` the `ClientOptions`
    and those of the connection; with `mirrors` beside it, the list of mirrors goes in too.
    A function `group_name` is the verb `group name`; results and errors call it `group-name`.
    """
    signature = inspect.signature(function)
    own = [p for n, p in signature.parameters.items() if n not in ("out", "client", "mirrors")]
    connects = "client" in signature.parameters
    pulls = "mirrors" in signature.parameters
    shared: list[Parameter] = []
    if pulls:
        shared.append(MIRROR_OPTION)
    if connects:
        shared += CONNECTION_OPTIONS
    shared += OUTPUT_OPTIONS

    def run(**values: Any) -> None:
        name = function.__name__.replace("_", "-")
        out = Output(name, as_json=values.pop("json"), quiet=values.pop("quiet"))
        with_client = {}
        if connects:
            options = {p.name: values.pop(p.name) for p in CONNECTION_OPTIONS}
            mirrors = tuple(values.pop("mirror")) if pulls else ()
            with_client["client"] = _client_options(mirrors, **options)
        if pulls:
            with_client["mirrors"] = ()
        _guarded(out, lambda: function(out=out, **with_client, **values))

    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own] + shared
    run.__name__ = function.__name__
    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _client_options(mirrors: tuple[str, ...], **values: Any) -> Any:
    from ocimodel import __version__
    from ocimodel.registry.transport import ClientOptions

    return ClientOptions(
        plain_http=values["plain_http"],
        insecure=values["insecure"],
        ca_file=values["ca_file"],
        client_cert=values["client_cert"],
        client_key=values["client_key"],
        registry_config=values["registry_config"],
        mirrors=mirrors,
        timeout_s=values["timeout"],
        n_attempts=values["retries"] + 1,
        environ=dict(os.environ),
        user_agent=f"ocimodel/{__version__}",
    )


def _guarded(out: Output, action: Callable[[], None]) -> None:
    """Run to the end, or end the process as the error says."""
    try:
        with out:
            action()
    except OcimodelError as error:
        out.error(error)
        raise typer.Exit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        out.interrupted()
        # worker threads may sit in a silent socket; what is on disk can be resumed from any moment
        os._exit(INTERRUPTED)
    except ReaderLeft:
        raise typer.Exit(0) from None
