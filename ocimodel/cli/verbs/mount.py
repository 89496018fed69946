import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocimodel.cli.options import KeyOption, PolicyOption, ReferenceArgument
from ocimodel.cli.output import Output, complain
from ocimodel.cli.text import human

if TYPE_CHECKING:
    from ocimodel.ops.mount import MountStats
    from ocimodel.registry.transport import ClientOptions


def mount(
    reference: ReferenceArgument,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An empty directory.")],
    require_lazy: Annotated[
        bool,
        typer.Option(
            "--require-lazy",
            envvar="OCIMODEL_REQUIRE_LAZY",
            help="Fail instead of fetching whole blobs before they can be read.",
        ),
    ] = False,
    daemon: Annotated[
        bool, typer.Option("--daemon", help="Go to the background once the files can be read.")
    ] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option("--ready-file", metavar="FILE", help="Write it once the files can be read."),
    ] = None,
    key: KeyOption = "",
    policy: PolicyOption = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="OCIMODEL_CACHE",
            help="Folder of blobs, shared; without it a temporary one.",
        ),
    ] = None,
    no_complete: Annotated[
        bool, typer.Option("--no-complete", help="Fetch only what is read.")
    ] = False,
    *,
    client: "ClientOptions",
    mirrors: tuple[str, ...],
    out: Output,
) -> None:
    """Show a model as a read-only directory at once, and fetch it meanwhile.

    Until it is unmounted (fusermount3 -u DIR) or ended (SIGTERM, Ctrl-C). SIGUSR1: tell on stderr
    what it has done.
    """
    import ocimodel

    def run(on_ready: "Callable[[MountStats], None]") -> "MountStats":
        return ocimodel.mount(
            reference,
            directory,
            key=key,
            policy=policy,
            cache=cache,
            require_lazy=require_lazy,
            complete=not no_complete,
            ready_file=ready_file,
            on_ready=on_ready,
            on_stats=lambda stats: complain(json.dumps(_document(stats))),
            client=client,
            observer=out.notices,
        )

    if daemon:
        document = _in_background(run)
        mounted = f"mounted {document['reference']} at {directory} ({document['mode']})"
        out.result(document, [mounted, f"digest {document['digest']}"])
        return
    stats = run(lambda stats: out.note(_ready(stats)))
    out.result(
        _document(stats),
        [
            f"unmounted {stats.reference} from {directory}",
            f"digest {stats.digest}",
            f"{human(stats.bytes_fetched)} fetched, {human(stats.bytes_cached)} from the cache",
        ],
    )


def _ready(stats: "MountStats") -> str:
    return (
        f"mounted {stats.reference} at {stats.directory} ({stats.mode}); stop with Ctrl-C or "
        f"fusermount3 -u {stats.directory}"
    )


def _document(stats: "MountStats") -> dict[str, Any]:
    return {
        "reference": stats.reference,
        "digest": stats.digest,
        "directory": str(stats.directory),
        "mode": stats.mode,
        "bytesFetched": stats.bytes_fetched,
        "bytesCached": stats.bytes_cached,
        "requests": stats.n_requests,
        "waited": stats.n_waited,
        "bytesCompleted": stats.bytes_completed,
        "bytesTotal": stats.bytes_total,
        "seconds": round(stats.seconds, 3),
    }


def _in_background(run: "Callable[[Callable[[MountStats], None]], MountStats]") -> dict[str, Any]:
    """Mount in a process of its own, which is left alone once it has said how it stands.

    One that fails says why by itself, and its exit code is ours.
    """
    out, into = os.pipe()
    child = os.fork()
    if child:
        os.close(into)
        with os.fdopen(out) as file:
            said = file.read()
        if not said:
            raise typer.Exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        document: dict[str, Any] = json.loads(said)
        return document
    os.close(out)
    os.setsid()

    def leave(stats: "MountStats") -> None:
        with os.fdopen(into, "w") as file:
            json.dump(_document(stats), file)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(nowhere, fd)

    run(leave)
    # the result was printed long ago
    os._exit(0)
