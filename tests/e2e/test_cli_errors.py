"""What a person is told when it goes wrong: exit code, reason, next step; the same as JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ocimodel
from tests.e2e.conftest import Cli
from tests.servers import faults
from tests.servers.fault_proxy import FaultProxy
from tests.servers.registry import DockerRegistry
from tests.trees import settled

Fails = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("frobnicate",), "No such command 'frobnicate'.", "ocimodel --help"),
        (("psuh",), "Did you mean 'push'?", "ocimodel --help"),
        (("push", "--frobnicate"), "No such option: --frobnicate", "push [OPTIONS] SOURCE REF; "),
        (("push", "."), "Missing argument 'REF'.", "ocimodel push --help"),
        (("pull", "oci:x"), "Missing option '--output'", "ocimodel pull --help"),
        (("ls", "oci:x", "y"), "unexpected extra argument", "ocimodel ls [OPTIONS] REPO"),
        (("ls", "oci:x", "--timeout", "soon"), "Invalid value for '--timeout'", "ls --help"),
        (("completion", "tcsh"), "is not one of 'bash', 'zsh', 'fish'", "completion --help"),
    ],
)
def test_2_the_command_line(
    error: Fails, arguments: tuple[str, ...], message: str, hint: str
) -> None:
    told = error(2, *arguments)
    assert told["kind"] == "usage"
    assert message in told["message"]
    assert hint in told["hint"]


def test_2_what_the_verbs_refuse(error: Fails, cli: Cli) -> None:
    assert "names no registry" in error(2, "inspect", "gpt2")["message"]
    assert "--raw alone" in error(2, "inspect", "oci:x", "--raw")["hint"]
    assert "ocimodel push" in error(2, "pack", ".", "localhost:9/a:b")["hint"]


def test_without_arguments_there_is_help(cli: Cli) -> None:
    done = cli(code=2)
    assert done.out == ""
    assert "Usage: ocimodel" in done.err and "  pull " in done.err


def test_3_not_found(error: Fails, repo: str) -> None:
    told = error(3, "pull", f"{repo}:v9", "-o", "x")
    assert told == {
        "kind": "not-found",
        "message": f"{repo}:v9 was not found",
        "hint": f"ocimodel ls {repo}",
    }


def test_3_no_such_directory(cli: Cli, repo: str) -> None:
    assert cli("push", "./nothing", f"{repo}:v1", code=3).err == (
        "error: there is no directory nothing\n"
    )


def test_4_wrong_password(error: Fails, registry_htpasswd: DockerRegistry) -> None:
    host = registry_htpasswd.host
    wrong = {"OCIMODEL_USERNAME": "alice", "OCIMODEL_PASSWORD": "wrong"}
    told = error(4, "ls", f"{host}/a/b", env=wrong)
    assert told["kind"] == "authentication"
    assert told["hint"] == f"ocimodel login {host}"
    assert "wrong" not in told["message"]


def test_5_nobody_there(error: Fails) -> None:
    told = error(5, "pull", "127.0.0.1:9/a/b:c", "-o", "x", "--retries", "0")
    assert told["kind"] == "registry"
    assert "Connection refused" in told["message"]


def test_6_tampered_on_its_way(
    error: Fails,
    cli: Cli,
    pushed: str,
    docker_registry: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
) -> None:
    proxy = fault_proxy(docker_registry)
    proxy.add(faults.FlipByte(3), method="GET", path="/blobs/", times=None)
    reference = pushed.replace(docker_registry.host, proxy.host)
    told = error(6, "pull", reference, "-o", "copy", "--retries", "0")
    assert told["kind"] == "integrity"
    assert settled(cli.cwd / "copy") <= {"empty"}
    proxy.clear()
    cli("pull", reference, "-o", "copy", "-q")


def test_9_a_tag_stays(error: Fails, cli: Cli, model: Path, pushed: str) -> None:
    (model / "config.json").write_text('{"model_type": "gpt2"}')
    told = error(9, "push", model, pushed)
    assert told["kind"] == "conflict"
    assert "--force-tag" in told["hint"]


def _unknown_key(model: Path) -> None:
    (model / "ocimodel.yaml").write_text("licence: MIT\n")


def _link_out(model: Path) -> None:
    (model / "passwd").symlink_to("/etc/passwd")


def _truncated(model: Path) -> None:
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize(
    ("spoil", "message", "hint"),
    [
        (_unknown_key, "ocimodel.yaml: licence: unknown key", "did you mean licenses?"),
        (_link_out, "'passwd' leads out of the model directory", "exclude the link"),
        (_truncated, "model.safetensors", "truncated or damaged"),
    ],
)
def test_10_bad_input(
    error: Fails, model: Path, spoil: Callable[[Path], None], message: str, hint: str
) -> None:
    spoil(model)
    told = error(10, "pack", model, "oci:layout:v1")
    assert message in told["message"]
    assert hint in told["hint"]


def test_10_settings_of_the_directory(error: Fails, cli: Cli, model: Path) -> None:
    here = cli.cwd / "ocimodel.yaml"
    here.write_text("settings: {concurrenc: 3}\n")
    told = error(10, "ls", "oci:x")
    assert told["message"] == "ocimodel.yaml: settings.concurrenc: unknown key"
    assert told["hint"] == "did you mean concurrency?"
    # what does not need them does not read them
    assert "Usage: ocimodel push" in cli("push", "--help").out
    cli("init", "--force")


def test_10_standard_output_is_full(cli: Cli, pushed: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*cli.program, "inspect", pushed], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 10
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"


def test_settings_flag_over_environment_over_files(cli: Cli, isolated_environment: Path) -> None:
    def tries(*flags: str, **environment: str) -> int:
        run = ("ls", "127.0.0.1:9/a/b", *flags)
        return cli(*run, code=5, env=environment).err.count("trying again")

    user = isolated_environment / ".xdg_config_home" / "ocimodel" / "config.yaml"
    user.parent.mkdir(parents=True)
    user.write_text("retries: 1\n")
    (cli.cwd / "ocimodel.yaml").write_text("settings: {retries: 0}\n")
    assert tries() == 0
    assert tries(OCIMODEL_RETRIES="1") == 1
    assert tries("--retries", "0", OCIMODEL_RETRIES="1") == 0


def test_names_with_control_characters_never_reach_the_terminal(cli: Cli, model: Path) -> None:
    ocimodel.pack(model, f"oci:{cli.cwd}/layout:v1")
    red = "\x1b[31mred\u202e"
    layout = cli.cwd / "layout"
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = red
    (layout / "index.json").write_text(json.dumps(index))
    (model / red).touch()
    runs = [
        cli("cat", "oci:layout", red, code=3),
        cli("inspect", red, code=2),
        cli("ls", "oci:layout", "-l"),
        cli("ls", "oci:layout", "--json"),
        cli("pack", model, "oci:layout:v2", code=10),
        cli("pull", "oci:layout", "-o", red),
    ]
    for done in runs:
        text = (done.out + done.err).replace("\n", "")
        assert text.isascii() or text.isprintable(), text
        assert "\x1b" not in text
