"""trace: what a program reads of a model, and in which order."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ocimodel.errors import NotFoundError, TargetError, UsageError
from ocimodel.events import Observer, ignore
from ocimodel.lazy.mountpoint import detach
from ocimodel.lazy.recorder import Recorder
from ocimodel.ops.mount import MountStats, mount
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.profile import encode_profile

# in the command: where the model is mounted
PLACE: Final = "{}"


@dataclass(frozen=True, slots=True)
class TraceResult:
    """`returncode`: of the command. `n_bytes`: that it read at least once, of `n_total`."""

    reference: str
    digest: str
    profile: Path
    returncode: int
    n_ranges: int
    n_bytes: int
    n_total: int


def trace(
    reference: str,
    command: Sequence[str],
    profile: Path | str,
    *,
    key: str = "",
    policy: Path | str | None = None,
    cache: Path | str | None = None,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> TraceResult:
    """Run `command` with the model mounted where it says `{}`, and write what it read to `profile`.

    `push` can keep such an access profile in an artifact, `pull` fetch in its order. The command's
    failure is no error: what it read until then is written all the same. Raises the tree of
    ocimodel.errors.
    """
    if not any(PLACE in word for word in command):
        raise UsageError(
            "the command does not say where it wants the model",
            hint=f"write {PLACE} in its place: ocimodel trace REF -o FILE -- COMMAND {PLACE}",
        )
    recorder = Recorder()
    outcome: list[int | OSError] = []
    with tempfile.TemporaryDirectory(prefix="ocimodel-trace-") as folder:
        argv = [word.replace(PLACE, folder) for word in command]

        def run() -> None:
            try:
                outcome.append(subprocess.run(argv, check=False).returncode)  # noqa: S603
            except OSError as error:
                outcome.append(error)
            finally:
                detach(Path(folder))

        def begin(stats: MountStats) -> None:
            threading.Thread(target=run, daemon=True).start()

        stats = mount(
            reference,
            folder,
            key=key,
            policy=policy,
            cache=cache,
            complete=False,
            recorder=recorder,
            on_ready=begin,
            client=client,
            observer=observer,
        )
    if outcome and isinstance(error := outcome[0], OSError):
        raise NotFoundError(f"cannot run {command[0]}: {error.strerror}") from error
    ranges = recorder.ranges()
    path = Path(profile)
    try:
        path.write_bytes(encode_profile(ranges))
    except OSError as failed:
        raise TargetError(f"cannot write {path}: {failed.strerror}") from failed
    return TraceResult(
        stats.reference,
        stats.digest,
        path,
        outcome[0] if outcome and isinstance(outcome[0], int) else -1,
        len(ranges),
        sum(length for _, _, length in ranges),
        stats.bytes_total,
    )
