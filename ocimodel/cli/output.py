"""Results on stdout, everything else on stderr; for people, for machines, or just the digest."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ocimodel.cli.progress import Progress, choose
from ocimodel.errors import OcimodelError
from ocimodel.events import Event, Notice, Observer


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
        if self.quiet:
            return _notices
        self._progress = choose(sys.stderr)
        return self._progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_progress()

    def end_progress(self) -> None:
        if self._progress:
            self._progress.close()
            self._progress = None

    def result(self, document: Mapping[str, Any], text: Iterable[str], quiet: str = "") -> None:
        """Print the result: `document` as JSON, or `text` line by line, or `quiet`."""
        self.end_progress()
        if self.as_json:
            schema = {"schema": f"ocimodel.{self.verb}/v1"}
            print_line(json.dumps({**schema, **document}, indent=2, ensure_ascii=False))
        elif self.quiet:
            if quiet:
                print_line(quiet)
        else:
            for line in text:
                print_line(line)

    def note(self, message: str) -> None:
        """Tell a person something on stderr."""
        if not self.quiet:
            _complain(message)

    def error(self, error: OcimodelError) -> None:
        self.end_progress()
        _complain(f"error: {error}")
        if error.hint:
            _complain(f"  hint: {error.hint}")
        if self.as_json:
            document = {
                "schema": "ocimodel.error/v1",
                "verb": self.verb,
                "error": {"kind": error.kind, "message": str(error), "hint": error.hint},
                "exitCode": error.exit_code,
            }
            print_line(json.dumps(document, indent=2, ensure_ascii=False))

    def interrupted(self) -> None:
        self.end_progress()
        _complain("interrupted: run the same command again, it resumes")
        sys.stdout.flush()


def print_line(text: str) -> None:
    """One line on stdout. Names that the terminal cannot show are escaped, not fatal."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(text.encode("utf-8", "backslashreplace").decode() + "\n")
    sys.stderr.flush()


def _notices(event: Event) -> None:
    if isinstance(event, Notice):
        _complain(event.message)


def human(n_bytes: int) -> str:
    """A size for people, in powers of 1000 as disks and registries have it: 90.9 MB."""
    size = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Rows with columns lined up; `right`: columns of numbers."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
