"""Progress: plain lines by an injected clock, bars on something that says it is a terminal."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass

import pytest

from ocimodel.cli.progress import LINE_EVERY_S, MAX_BARS, QUIET_HASH_BYTES, Bars, Lines, choose
from ocimodel.events import (
    BlobAdvanced,
    BlobFinished,
    BlobStarted,
    HashAdvanced,
    HashStarted,
    Notice,
    Outcome,
)

MB = 1_000_000


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def lines(log: io.StringIO, clock: Clock) -> Lines:
    return Lines(log, clock)


def test_one_line_for_each_blob(lines: Lines, log: io.StringIO) -> None:
    for outcome in Outcome:
        lines(BlobFinished("sha256:0", f"{outcome.name}.bin", 3 * MB, outcome))
    assert log.getvalue().splitlines() == [
        "done: TRANSFERRED.bin (3.0 MB)",
        "exists: EXISTS.bin (3.0 MB)",
        "mounted: MOUNTED.bin (3.0 MB)",
        "reused: REUSED.bin (3.0 MB)",
    ]


def test_a_sign_of_life_every_ten_seconds(lines: Lines, log: io.StringIO, clock: Clock) -> None:
    lines(BlobStarted("sha256:0", "a", 50 * MB))
    lines(BlobStarted("sha256:1", "b", 10 * MB))
    for _ in range(25):
        clock.now += 1
        lines(BlobAdvanced("sha256:0", MB))
    assert log.getvalue().splitlines() == [
        "moved 10.0 MB of 60.0 MB begun",
        "moved 20.0 MB of 60.0 MB begun",
    ]


def test_any_line_is_a_sign_of_life(lines: Lines, log: io.StringIO, clock: Clock) -> None:
    clock.now += LINE_EVERY_S - 1
    lines(Notice("trying again"))
    clock.now += LINE_EVERY_S - 1
    lines(BlobAdvanced("sha256:0", MB))
    assert log.getvalue() == "trying again\n"


def test_bytes_that_come_again_are_not_counted_twice(
    lines: Lines, log: io.StringIO, clock: Clock
) -> None:
    lines(BlobStarted("sha256:0", "a", 5 * MB))
    lines(BlobAdvanced("sha256:0", 4 * MB))
    lines(BlobAdvanced("sha256:0", -4 * MB))
    clock.now += LINE_EVERY_S
    lines(BlobAdvanced("sha256:0", MB))
    assert log.getvalue() == "moved 1.0 MB of 5.0 MB begun\n"


def test_only_long_readings_are_announced(lines: Lines, log: io.StringIO, clock: Clock) -> None:
    lines(HashStarted(QUIET_HASH_BYTES - 1))
    assert log.getvalue() == ""
    lines(HashStarted(QUIET_HASH_BYTES))
    clock.now += LINE_EVERY_S
    lines(HashAdvanced(MB))
    assert log.getvalue() == "reading 268.4 MB\nread 1.0 MB\n"


def test_names_are_safe_to_show(lines: Lines, log: io.StringIO) -> None:
    lines(BlobFinished("sha256:0", "\x1b[2Jx\udcff", 1, Outcome.EXISTS))
    assert log.getvalue() == "exists: \\x1b[2Jx\\udcff (1 B)\n"


def test_a_log_that_is_gone_stops_nothing(clock: Clock) -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    Lines(Gone(), clock)(Notice("unheard"))


def test_lines_of_many_threads_stay_whole(lines: Lines, log: io.StringIO) -> None:
    def work(n: int) -> None:
        for _ in range(100):
            lines(BlobFinished("sha256:0", str(n) * 20, 1, Outcome.EXISTS))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(log.getvalue().splitlines()) == {f"exists: {str(n) * 20} (1 B)" for n in range(4)}


@pytest.mark.parametrize(
    ("environ", "bars"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "CI": "false", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "CI": "true"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_bars_where_a_person_sees_them_move(environ: dict[str, str], bars: bool) -> None:
    chosen = choose(Screen(), environ)
    chosen.close()
    assert isinstance(chosen, Bars) is bars
    assert isinstance(choose(io.StringIO(), environ), Lines)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Screen()


def test_bars_leave_what_is_done_and_nothing_else(screen: Screen) -> None:
    bars = Bars(screen)
    bars(HashStarted(3))
    bars(HashAdvanced(3))
    for n in range(MAX_BARS + 3):
        bars(BlobStarted(f"sha256:{n}", f"{n}.bin", 10))
        bars(BlobAdvanced(f"sha256:{n}", 4))
        bars(BlobAdvanced(f"sha256:{n}", -4))
    bars(BlobAdvanced("sha256:unknown", 1))
    bars(Notice("[bold]no markup[/bold] \x1b[31m"))
    bars(BlobFinished("sha256:0", "0.bin", 10, Outcome.MOUNTED))
    bars(BlobFinished("sha256:unknown", "there.bin", 10, Outcome.EXISTS))
    bars.close()
    seen = screen.getvalue()
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") == 1
    assert "    mounted  0.bin  (10 B)" in seen
    assert "     exists  there.bin  (10 B)" in seen
    assert "[bold]no markup[/bold] \\x1b[31m" in seen
    bars.close()


def test_a_reading_may_be_announced_in_parts(screen: Screen) -> None:
    bars = Bars(screen)
    bars(HashAdvanced(1))
    for _ in range(2):
        bars(HashStarted(0))
        bars(HashStarted(2))
        bars(HashAdvanced(1))
        bars(HashAdvanced(1))
    bars.close()
