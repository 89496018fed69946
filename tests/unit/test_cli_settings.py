"""Settings: which place wins, what a file may say, and how it is told when it is wrong."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import ocimodel
from ocimodel.cli.main import main
from ocimodel.cli.settings import FileSettings, load, user_file
from ocimodel.errors import InputError, NotFoundError

# what `pull` is called with: the flags, and the same as a person may set them elsewhere
Pulled = dict[str, Any]
Run = Callable[..., Pulled]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration file, not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    path = tmp_path / "xdg" / "ocimodel" / "config.yaml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """`run(*flags)`: what the operation behind `pull` is called with."""
    given: Pulled = {}

    def pull(*_: Any, **values: Any) -> NoReturn:
        given.update(values)
        raise NotFoundError("far enough")

    monkeypatch.setattr(ocimodel, "pull", pull, raising=False)
    before = signal.getsignal(signal.SIGTERM)

    def runs(*flags: str, code: int = 3) -> Pulled:
        given.clear()
        monkeypatch.setattr(sys, "argv", ["ocimodel", "pull", "oci:x", "-o", "y", *flags])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        return dict(given)

    yield runs
    signal.signal(signal.SIGTERM, before)


def test_the_order(run: Run, here: Path, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run()["concurrency"] == 8
    user.write_text("concurrency: 1\n")
    assert run()["concurrency"] == 1
    (here / "ocimodel.yaml").write_text("name: x\nsettings: {concurrency: 2}\n")
    assert run()["concurrency"] == 2
    monkeypatch.setenv("OCIMODEL_CONCURRENCY", "3")
    assert run()["concurrency"] == 3
    assert run("--concurrency", "4")["concurrency"] == 4


def test_the_places_add_up(run: Run, here: Path, user: Path) -> None:
    user.write_text("concurrency: 1\nretries: 7\nmirror: [a.example, b.example]\n")
    (here / "ocimodel.yaml").write_text("settings: {concurrency: 2, timeout: 1.5}\n")
    given = run()
    client = given["client"]
    assert (given["concurrency"], client.n_attempts, client.timeout_s) == (2, 8, 1.5)
    assert client.mirrors == ("a.example", "b.example")
    assert run("--mirror", "c.example")["client"].mirrors == ("c.example",)


def test_all_that_a_person_may_set(run: Run, user: Path, isolated_environment: Path) -> None:
    user.write_text(
        "plainHTTP: true\ninsecure: true\ncompat: true\ncache: ~/blobs\ncaFile: ca.pem\n"
        "clientCert: c.pem\nclientKey: k.pem\nregistryConfig: ~/auth.json\n"
    )
    given = run()
    client = given["client"]
    assert client.plain_http and client.insecure
    assert given["cache"] == isolated_environment / "blobs"
    assert client.registry_config == isolated_environment / "auth.json"
    assert client.ca_file == Path("ca.pem")
    assert (client.client_cert, client.client_key) == (Path("c.pem"), Path("k.pem"))
    assert load()["compat"] is True


def test_environment_variables(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MIRROR": "a:1 b:2", "PLAIN_HTTP": "1", "RETRIES": "0"}.items():
        monkeypatch.setenv(f"OCIMODEL_{name}", value)
    client = run()["client"]
    assert client.mirrors == ("a:1", "b:2")
    assert client.plain_http and client.n_attempts == 1
    monkeypatch.setenv("OCIMODEL_RETRIES", "many")
    assert run(code=2) == {}


@pytest.mark.parametrize(
    "text", ["", "name: x\n", "settings:\n", "- not\n- ours\n", "# only this\n"]
)
def test_a_modelfile_need_not_have_settings(here: Path, text: str) -> None:
    (here / "ocimodel.yaml").write_text(text)
    assert load({}) == {}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("settings: 3", "ocimodel.yaml: settings: expected a mapping, got a number", ""),
        ("settings: {x: 1}", "settings.x: unknown key", "known keys: concurrency, retries, timeo"),
        ("settings: {retrys: 1}", "settings.retrys: unknown key", "did you mean retries?"),
        ("settings: {insecure: true}", "settings.insecure: unknown key", ""),
        ("settings: {retries: 21}", "settings.retries: expected a whole number from 0 to 20", ""),
        ("settings: {1: 2}", "settings: expected keys of text", 'write "1":'),
        (": : [", "ocimodel.yaml, line 1: ", "quote"),
    ],
)
def test_a_bad_project_file(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    here: Path,
    text: str,
    message: str,
    hint: str,
) -> None:
    (here / "ocimodel.yaml").write_text(text)
    assert run(code=10) == {}
    told = capsys.readouterr()
    assert told.err.startswith("error: ocimodel.yaml")
    assert message in told.err and hint in told.err
    assert run("--json", code=10) == {}
    assert '"verb": "pull"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mirror: a.example", "mirror: expected a list, got text"),
        ("insecure: maybe", "insecure: expected true or false, got text"),
        ("cache: 7", "cache: expected text, got a number"),
        ("[1]", "expected a mapping, got a list"),
        ("settings: {retries: 1}", "settings: unknown key"),
    ],
)
def test_a_bad_user_file(user: Path, text: str, message: str) -> None:
    user.write_text(text)
    with pytest.raises(InputError) as caught:
        load()
    assert str(caught.value) == f"{user}: {message}"


def test_a_file_of_ones_choice(tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.yaml"
    environ = {"OCIMODEL_CONFIG": str(chosen)}
    with pytest.raises(InputError, match="there is no such file"):
        load(environ)
    chosen.write_text("retries: 2\n")
    assert load(environ) == {"retries": 2}


def test_where_the_user_file_is() -> None:
    home = {"HOME": "/h"}
    assert user_file(home) == Path("/h/.config/ocimodel/config.yaml")
    assert user_file({**home, "XDG_CONFIG_HOME": "/x"}) == Path("/x/ocimodel/config.yaml")
    assert user_file({**home, "OCIMODEL_CONFIG": "c"}) == Path("c")
    assert load({}) == {}


def test_files_are_read_when_someone_asks(here: Path) -> None:
    settings = FileSettings({})
    (here / "ocimodel.yaml").write_text("settings: {retries: 2}\n")
    assert dict(settings) == {"retries": 2}
    assert len(settings) == 1 and settings.get("timeout") is None
    (here / "ocimodel.yaml").unlink()
    assert settings["retries"] == 2
