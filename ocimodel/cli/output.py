"""Results on stdout, everything else on stderr; for people, for machines, or just the digest."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import IO, Any, Self, cast

from ocimodel.cli.progress import Progress, choose
from ocimodel.cli.text import shown
from ocimodel.errors import OcimodelError, TargetError
from ocimodel.events import Event, Notice, Observer

INTERRUPTED = 130
# in the environment: what the shell wants to complete
COMPLETE = "_OCIMODEL_COMPLETE"
_RESUMABLE = frozenset({"pack", "push", "pull", "copy"})


class ReaderLeft(Exception):  # noqa: N818 - no error: `ocimodel … | head`
    """Whoever reads standard output has seen enough."""


class Output:
    """What one verb prints. As a context manager it ends the progress display."""

    def __init__(self, verb: str, *, as_json: bool, quiet: bool) -> None:
        self.verb = verb
        self.as_json = as_json
        self.quiet = quiet
        self._progress: Progress | None = None

    @property
    def observer(self) -> Observer:
        """Shows progress from now on. With --quiet only notices."""
        if self.quiet or sys.stderr is None:
            return self.notices
        self._progress = choose(sys.stderr, os.environ)
        return self._progress

    @property
    def notices(self) -> Observer:
        """Shows what a person should know, such as a retry; for what has no progress."""
        return _notices

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_progress()
        if error is None:
            flush()

    def end_progress(self) -> None:
        if self._progress:
            self._progress.close()
            self._progress = None

    def result(self, document: Mapping[str, Any], text: Iterable[str], quiet: str = "") -> None:
        """Print the result: `document` as JSON, or `text` line by line, or `quiet`."""
        self.end_progress()
        if self.as_json:
            self._print_json({"schema": f"ocimodel.{self.verb}/v1", **document})
        elif self.quiet:
            if quiet:
                print_line(quiet)
        else:
            for line in text:
                print_line(line)

    def content(self) -> IO[bytes]:
        """Where bytes go to that are themselves the result."""
        self.end_progress()
        return cast(IO[bytes], _Content())

    def note(self, message: str) -> None:
        """Tell a person something on stderr."""
        if not self.quiet:
            complain(message)

    def warn(self, message: str) -> None:
        """Tell a person of a danger, with --quiet too."""
        complain(f"warning: {message}")

    def error(self, error: OcimodelError) -> None:
        self._failed(str(error), error.hint, error.kind, error.exit_code)

    def interrupted(self) -> None:
        how = "run the same command again, it resumes" if self.verb in _RESUMABLE else ""
        self._failed("", how, "interrupted", INTERRUPTED)

    def _failed(self, message: str, hint: str, kind: str, exit_code: int) -> None:
        self.end_progress()
        if exit_code == INTERRUPTED:
            complain(f"interrupted: {hint}" if hint else "interrupted")
        else:
            complain(f"error: {message}" + (f"\n  hint: {hint}" if hint else ""))
        if self.as_json:
            error = {"kind": kind, "message": message or kind, "hint": hint}
            document = {"schema": "ocimodel.error/v1", "verb": self.verb, "error": error}
            # the exit code tells it as well, should nobody be there to read this
            with contextlib.suppress(ReaderLeft, TargetError):
                self._print_json({**document, "exitCode": exit_code})
                flush()

    def _print_json(self, document: Mapping[str, Any]) -> None:
        # ASCII: valid in every locale, and no name in it can play with the terminal
        print_line(json.dumps(document, indent=2))


class _Content(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if sys.stdout is not None:
            with _printing():
                sys.stdout.buffer.write(data)
        return len(data)


def print_line(text: str) -> None:
    """One line on stdout. Names that the terminal cannot show are escaped, not fatal."""
    if sys.stdout is not None:
        encoding = sys.stdout.encoding or "utf-8"
        line = shown(text).encode(encoding, "backslashreplace").decode(encoding)
        with _printing():
            sys.stdout.write(line + "\n")


def flush() -> None:
    if sys.stdout is not None:
        with _printing():
            sys.stdout.flush()


def complain(text: str) -> None:
    """Say something on stderr. That nobody can hear it is no reason to fail."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(shown(text) + "\n")
            sys.stderr.flush()


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """ReaderLeft when the pipe's other end is closed; TargetError for a full disk and the like."""
    try:
        yield
    except OSError as error:
        # what is left in the buffer goes nowhere, or Python would complain about it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderLeft from error
        raise TargetError(f"cannot write to standard output: {error.strerror}") from error


def _notices(event: Event) -> None:
    if isinstance(event, Notice):
        complain(event.message)
