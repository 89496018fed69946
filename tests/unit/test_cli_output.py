"""What verbs print: shapes, streams, and text that is safe to show."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest

from ocimodel.cli.output import Output, ReaderLeft, print_line
from ocimodel.cli.text import counted, human, listed, shown, table
from ocimodel.errors import ConflictError, TargetError
from ocimodel.events import Notice

DOCUMENT = {"reference": "h/r:t", "name": "größe\x9b\u202e"}
Captured = pytest.CaptureFixture[str]


def output(*, as_json: bool = False, quiet: bool = False, verb: str = "pull") -> Output:
    return Output(verb, as_json=as_json, quiet=quiet)


def test_text_json_and_quiet_are_one_result_each(capsys: Captured) -> None:
    seen = []
    for out in (
        output(),
        output(quiet=True),
        output(as_json=True),
        output(quiet=True, as_json=True),
    ):
        with out:
            out.result(DOCUMENT, ["one", "two"], "essence")
        seen.append(capsys.readouterr())
    assert [s.err for s in seen] == [""] * 4
    assert [s.out for s in seen[:2]] == ["one\ntwo\n", "essence\n"]
    for printed in seen[2:]:
        assert json.loads(printed.out) == {"schema": "ocimodel.pull/v1", **DOCUMENT}
        assert printed.out.isascii()


def test_a_quiet_result_may_be_nothing(capsys: Captured) -> None:
    output(quiet=True).result({}, ["text"])
    assert capsys.readouterr().out == ""


def test_an_error_is_told_to_people_and_to_machines(capsys: Captured) -> None:
    error = ConflictError("tag \x1b[31m is taken", hint="choose another")
    output(as_json=True).error(error)
    printed = capsys.readouterr()
    assert printed.err == "error: tag \\x1b[31m is taken\n  hint: choose another\n"
    assert json.loads(printed.out) == {
        "schema": "ocimodel.error/v1",
        "verb": "pull",
        "error": {"kind": "conflict", "message": str(error), "hint": "choose another"},
        "exitCode": 9,
    }
    output().error(ConflictError("taken"))
    assert capsys.readouterr() == ("", "error: taken\n")


@pytest.mark.parametrize(
    ("verb", "told"),
    [
        ("pull", "interrupted: run the same command again, it resumes\n"),
        ("ls", "interrupted\n"),
    ],
)
def test_an_interruption(capsys: Captured, verb: str, told: str) -> None:
    output(verb=verb, as_json=True).interrupted()
    printed = capsys.readouterr()
    assert printed.err == told
    assert json.loads(printed.out)["error"]["kind"] == "interrupted"
    assert json.loads(printed.out)["exitCode"] == 130


def test_notes_keep_quiet_and_dangers_do_not(capsys: Captured) -> None:
    out = output(quiet=True)
    out.note("unheard")
    out.warn("heard")
    out.observer(Notice("trying again"))
    assert capsys.readouterr() == ("", "warning: heard\ntrying again\n")


class Broken(io.TextIOWrapper):
    """A standard output that fails as `error`; what is left of it goes to the null device."""

    def __init__(self, error: Callable[[], OSError]) -> None:
        super().__init__(open("/dev/null", "wb"), encoding="utf-8")  # noqa: PTH123, SIM115
        self._error = error

    def write(self, _text: str) -> int:
        raise self._error()

    def flush(self) -> None:
        """Nothing is kept back."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lambda: BrokenPipeError(32, "Broken pipe"), ReaderLeft),
        (lambda: OSError(28, "No space left on device"), TargetError),
    ],
)
def test_a_standard_output_that_fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    error: Callable[[], OSError],
    expected: type[Exception],
) -> None:
    with Broken(error) as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        with pytest.raises(expected):
            output().result({}, ["text"])
        # the error itself is told on stderr even so
        output(as_json=True).error(TargetError("full"))
    assert capsys.readouterr().err == "error: full\n"


def test_closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with output() as out:
        out.observer(Notice("unheard"))
        out.result({}, ["text"])
        assert out.content().write(b"bytes") == 5
    output(as_json=True).error(TargetError("full"))


def test_a_poor_encoding_is_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    print_line("größe \udcff")
    sys.stdout.flush()
    assert raw.getvalue() == b"gr\\xf6\\xdfe \\udcff\n"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("größe 模型 🤗", "größe 模型 🤗"),
        ("two\nlines", "two\nlines"),
        ("a\tb\rc", "a\\tb\\rc"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_shown(text: str, seen: str) -> None:
    assert shown(text) == seen


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (90_900_000, "90.9 MB"),
        (5 * 10**9, "5.0 GB"),
        (999_999_999_999, "1.0 TB"),
        (2_500 * 10**12, "2500.0 TB"),
    ],
)
def test_human(n_bytes: int, text: str) -> None:
    assert human(n_bytes) == text


def test_counted_and_listed() -> None:
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"


def test_table() -> None:
    rows = [("a", "1 B", "x\ny"), ("long", "10 B", "")]
    assert table(rows, right=frozenset({1})) == ["a      1 B  x\\ny", "long  10 B"]
    assert table([]) == []
