"""Terminals, pipes and signals: bars where someone looks, plain lines elsewhere, a clean end."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ocimodel
from ocimodel.spec.digest import sha256
from tests.e2e.conftest import Cli
from tests.servers import faults
from tests.servers.fault_proxy import FaultProxy
from tests.servers.registry import DockerRegistry
from tests.trees import MIB, noise, small_model

HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"
# makes the terminal on stdin the controlling one, so that Ctrl-C means something
ATTACH = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """`cli`'s program on a pseudo-terminal: its input and both of its outputs."""

    def __init__(self, cli: Cli, *arguments: str, **environment: str) -> None:
        self._master, slave = os.openpty()
        self.seen = b""
        argv = [sys.executable, "-c", ATTACH, *cli.program, *arguments]
        env = cli.environ({"TERM": "xterm-256color", "COLUMNS": "100", **environment})
        self.process = subprocess.Popen(
            argv, cwd=cli.cwd, env=env, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read_until(self, wanted: bytes, seconds: float = 20) -> None:
        """Read until `wanted` was seen; with nothing wanted until the program ends."""
        deadline = time.monotonic() + seconds
        while not wanted or wanted not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, self.seen
            if select.select([self._master], [], [], left)[0]:
                try:
                    block = os.read(self._master, 65536)
                except OSError:  # EIO: the other side is closed
                    block = b""
                if not block:
                    assert not wanted, self.seen
                    return
                self.seen += block

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(cli: Cli) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str, **environment: str) -> Terminal:
        opened.append(Terminal(cli, *arguments, **environment))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.fixture
def layout(cli: Cli, work: Path) -> str:
    ocimodel.pack(small_model(work / "small"), f"oci:{work}/layout:v1")
    return "oci:layout:v1"


@pytest.fixture
def stalled(
    cli: Cli,
    layout: str,
    repo: str,
    docker_registry: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
) -> Iterator[tuple[FaultProxy, str]]:
    """A reference whose 3 MiB blob stops coming after 2 MiB, one buffer, behind a proxy."""
    ocimodel.push(cli.cwd / "small", f"{repo}:v1")
    proxy = fault_proxy(docker_registry)
    release = threading.Event()
    big = sha256(noise(3 * MIB, 1))
    proxy.add(faults.Stall(release, 2 * MIB), method="GET", path=f"/blobs/{big}", times=None)
    yield proxy, f"{repo}:v1".replace(docker_registry.host, proxy.host)
    release.set()


def test_bars_on_a_terminal_end_cleanly(
    terminal: Callable[..., Terminal], layout: str, cli: Cli
) -> None:
    pulling = terminal("pull", layout, "-o", "copy")
    pulling.read_until(b"")
    assert pulling.process.wait() == 0
    assert pulling.seen.count(HIDE_CURSOR) == pulling.seen.count(SHOW_CURSOR) == 1
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", pulling.seen.rpartition(SHOW_CURSOR)[2])
    assert b"pulled oci:layout:v1 into copy\r\n" in text
    assert b"done  b.bin  (3.1 MB)" in pulling.seen


@pytest.mark.parametrize(
    "plain", [{"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}], ids=lambda e: next(iter(e))
)
def test_plain_lines_where_asked_for(
    terminal: Callable[..., Terminal], layout: str, plain: dict[str, str]
) -> None:
    pulling = terminal("pull", layout, "-o", "copy", **plain)
    pulling.read_until(b"")
    assert b"\x1b" not in pulling.seen
    assert b"done: b.bin (3.1 MB)\r\n" in pulling.seen


def test_plain_lines_in_a_pipe(cli: Cli, layout: str) -> None:
    done = cli("pull", layout, "-o", "copy", env={"TERM": "xterm-256color"})
    assert "\x1b" not in done.out + done.err
    assert sorted(done.err.splitlines()) == [
        "done: a.bin (1.0 MB)",
        "done: b.bin (3.1 MB)",
        "done: config.json (33 B)",
    ]


def test_ctrl_c_ends_a_stalled_pull_and_the_next_one_resumes(
    terminal: Callable[..., Terminal], stalled: tuple[FaultProxy, str], cli: Cli
) -> None:
    proxy, reference = stalled
    pulling = terminal("pull", reference, "-o", "copy")
    pulling.read_until(b"a.bin  (1.0 MB)")
    pulling.read_until("━".encode())
    pulling.read_until(b"2.1/3.1 MB")
    pressed = time.monotonic()
    pulling.press(b"\x03")
    assert pulling.process.wait(timeout=10) == 130
    assert time.monotonic() - pressed < 2
    pulling.read_until(b"")
    assert pulling.seen.rstrip().endswith(b"interrupted: run the same command again, it resumes")
    assert pulling.seen.count(HIDE_CURSOR) == pulling.seen.count(SHOW_CURSOR) == 1
    proxy.clear()
    again = cli("pull", reference, "-o", "copy", "--json").document
    assert again["bytesFetched"] <= 3 * MIB
    assert again["bytesReused"] >= MIB
    assert (cli.cwd / "copy" / "b.bin").read_bytes() == noise(3 * MIB, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_stalled_pull(
    cli: Cli, stalled: tuple[FaultProxy, str], number: signal.Signals
) -> None:
    _, reference = stalled
    with cli.started("pull", reference, "-o", "copy", "--json") as pulling:
        assert pulling.stdout and pulling.stderr
        for line in pulling.stderr:
            if b"a.bin" in line:
                break
        sent = time.monotonic()
        pulling.send_signal(number)
        out, err = pulling.communicate(timeout=10)
        assert time.monotonic() - sent < 2
    assert pulling.returncode == 130
    assert b"interrupted: " in err and b"Traceback" not in err
    assert b'"kind": "interrupted"' in out and b'"exitCode": 130' in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_serves_until_a_signal_and_ends_well(
    cli: Cli, layout: str, number: signal.Signals
) -> None:
    with cli.started("serve", "oci:layout", "--listen", "127.0.0.1:0", "-q") as serving:
        assert serving.stdout and serving.stderr
        host = serving.stdout.readline().decode().strip()
        assert cli("ls", f"{host}/any", "-q").out == "v1\n"
        serving.send_signal(number)
        assert serving.wait(timeout=5) == 0
        assert serving.stdout.read() == serving.stderr.read() == b""


def test_serve_warns_when_others_can_reach_it(cli: Cli, layout: str) -> None:
    run = ("serve", "oci:layout", "--listen", "0.0.0.0:0", "--json", "--read-only")
    with cli.started(*run) as serving:
        assert serving.stdout and serving.stderr
        warning = serving.stderr.readline().decode()
        serving.terminate()
        out, _ = serving.communicate(timeout=5)
    assert re.fullmatch(r"warning: anyone who reaches 0\.0\.0\.0:\d+ can read\n", warning)
    assert b'"schema": "ocimodel.serve/v1"' in out


def test_a_pipe_that_ends_early_is_no_error(cli: Cli, layout: str) -> None:
    program = " ".join(map(shellquote, cli.program))
    commands = [
        f"{program} cat {layout} b.bin | head -c 10 | wc -c",
        f"{program} inspect {layout} --json | true",
        f"{program} pull {layout} -o copy 2>&1 >out | true",
    ]
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", f'{command}; exit "${{PIPESTATUS[0]}}"'],
            cwd=cli.cwd,
            env=cli.environ(),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
    # nobody listened, and the work was done all the same
    assert (cli.cwd / "out").read_text().startswith("pulled")


def test_closed_streams_are_no_error(cli: Cli, layout: str) -> None:
    program = " ".join(map(shellquote, cli.program))
    done = subprocess.run(
        ["bash", "-c", f"{program} pull {layout} -o copy >&- 2>&-"], cwd=cli.cwd, env=cli.environ()
    )
    assert done.returncode == 0
    assert (cli.cwd / "copy" / "b.bin").is_file()


def shellquote(text: str) -> str:
    return f"'{text}'"


COMPLETE = """
source ./script
COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_ocimodel_completion ocimodel
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def ocimodel_on_path(cli: Cli) -> dict[str, str]:
    folder = cli.cwd / "bin"
    folder.mkdir()
    (folder / "ocimodel").write_text(f'#!/bin/sh\nexec {" ".join(cli.program)} "$@"\n')
    (folder / "ocimodel").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_bash_completes(cli: Cli, ocimodel_on_path: dict[str, str]) -> None:
    script = cli("completion", "bash").out
    (cli.cwd / "script").write_text(script)
    # a broken file in the way is no reason to complete nothing
    (cli.cwd / "ocimodel.yaml").write_text("settings: 1\n")
    found = {}
    for words in ("ocimodel pu", "ocimodel push --force", "ocimodel completion b"):
        done = subprocess.run(
            ["bash", "-c", COMPLETE, "bash", words],
            cwd=cli.cwd,
            env=cli.environ(ocimodel_on_path),
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        found[words] = done.stdout.split()
    assert list(found.values()) == [["push", "pull"], ["--force-tag"], ["bash"]]


def test_zsh_and_fish_complete(cli: Cli) -> None:
    zsh = cli("completion", "zsh").out
    assert zsh.startswith("#compdef ocimodel\n")
    document = cli("completion", "fish", "--json").document
    assert document["schema"] == "ocimodel.completion/v1"
    assert document["script"].startswith("complete --command ocimodel ")
    asked = {"_TYPER_COMPLETE_ARGS": "ocimodel pu", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    for shell in ("zsh", "fish"):
        told = cli(env={**asked, "_OCIMODEL_COMPLETE": f"complete_{shell}"}).out
        assert "push" in told and "pull" in told
        if program := shutil.which(shell):
            script = document["script"] if shell == "fish" else zsh
            subprocess.run([program, "-n"], input=script.encode(), check=True)
