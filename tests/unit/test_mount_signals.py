"""What a mount is told by signals reaches it, whichever thread the kernel gives them to."""

from __future__ import annotations

import signal
import threading

import pytest

from ocimodel.ops.mount import _ENDED, _STOP, _TELL, _Signals


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGUSR1, _TELL), (signal.SIGTERM, _STOP), (signal.SIGINT, _STOP)],
)
def test_a_signal_that_another_thread_gets_is_heard(number: int, word: str) -> None:
    def kill() -> None:
        signal.pthread_kill(threading.get_ident(), number)

    with _Signals() as signals:
        thread = threading.Thread(target=kill)
        thread.start()
        assert signals.wait(10) == word
        thread.join()
        assert signals.wait(0) == ""


def test_the_end_is_heard_beside_signals_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)
    ended = threading.Event()
    with _Signals() as signals:
        ended.set()
        signals.end_with(ended)
        signal.raise_signal(signal.SIGUSR1)
        assert [signals.wait(10), signals.wait(10)] == [_ENDED, _TELL]
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1
