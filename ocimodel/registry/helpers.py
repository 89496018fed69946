"""Credential helpers: `docker-credential-NAME get|store|erase`, one document on each pipe.

Source: the docker-credential-helpers protocol.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping

from ocimodel.errors import AuthenticationError

_MAX_BYTES = 1 << 20  # of what a helper prints
_TIMEOUT_S = 30.0


class HelperMissingError(AuthenticationError):
    """The helper's program is not installed."""


def run_helper(name: str, verb: str, data: bytes, environ: Mapping[str, str]) -> bytes | None:
    """Return what the helper printed; None when it knows no such credential.

    `name` was checked by the caller. Raises HelperMissingError, AuthenticationError.
    """
    program = f"docker-credential-{name}"
    found = shutil.which(program, path=environ.get("PATH", os.defpath))
    if found is None:
        raise HelperMissingError(
            f"the credential helper {program} is not installed",
            hint=f"install {program}, or remove it from the registry configuration",
        )
    code, output = _exchange(found, verb, data, environ)
    if code == 0:
        return output
    reason = output.decode(errors="replace").strip()
    if "credentials not found" in reason.lower():
        return None
    reason = "".join(c if c.isprintable() else " " for c in reason[:200])
    raise AuthenticationError(
        f"{program} {verb} failed with status {code}: {reason}",
        hint=f"run `{program} {verb}` by hand to see why",
    )


def _exchange(
    program: str, verb: str, data: bytes, environ: Mapping[str, str]
) -> tuple[int, bytes]:
    env = {name: value for name, value in environ.items() if name != "OCIMODEL_PASSWORD"}
    try:
        process = subprocess.Popen(  # noqa: S603 - no shell, and the name was checked
            [program, verb],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            start_new_session=True,  # so that its children can be ended with it
        )
    except OSError as error:
        raise AuthenticationError(f"cannot run {program}: {error.strerror}") from error
    late = threading.Event()

    def end() -> None:
        late.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(_TIMEOUT_S, end)
    timer.start()
    assert process.stdin is not None and process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(data)
            process.stdin.close()
        output = process.stdout.read(_MAX_BYTES + 1)
        if len(output) > _MAX_BYTES:
            end()
            raise AuthenticationError(f"{program} printed over {_MAX_BYTES} bytes")
        code = process.wait()
    finally:
        timer.cancel()
        process.stdout.close()
        process.wait()
    if late.is_set():
        raise AuthenticationError(f"{program} {verb} took over {_TIMEOUT_S:.0f} s")
    return code, output
