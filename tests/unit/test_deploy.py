"""What is in deploy/ fits the program: the manifest's command runs, the image builds from what is
there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import ocimodel
from ocimodel.ops.serve import serve
from tests.servers.models import tiny_safetensors
from tests.unit.test_docs import commands, problem

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
MIB = 1 << 20


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d]


@pytest.fixture
def pod() -> dict[str, Any]:
    (found,) = documents(DEPLOY / "kubernetes" / "init-container.yaml")
    spec: dict[str, Any] = found["spec"]
    return spec


@pytest.fixture
def puller(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["initContainers"]
    container: dict[str, Any] = found
    return container


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: str(p.name))
def test_manifests_name_what_they_are(path: Path) -> None:
    for document in documents(path):
        assert {"apiVersion", "kind", "metadata", "spec"} <= set(document)


def test_mounts_have_volumes(pod: dict[str, Any]) -> None:
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_puller_has_no_privileges(pod: dict[str, Any], puller: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65534
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert puller["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_puller_needs_little_memory(puller: dict[str, Any]) -> None:
    limit = puller["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    assert int(limit.removesuffix("Mi")) <= 256


def test_the_model_is_named_by_digest(puller: dict[str, Any]) -> None:
    (value,) = [e["value"] for e in puller["env"] if e["name"] == "MODEL"]
    assert re.fullmatch(r"[a-z0-9./-]+@sha256:[0-9a-f]{64}", value)


def test_the_command_parses(puller: dict[str, Any]) -> None:
    assert puller["command"] == ["/bin/sh", "-c"]
    (script,) = puller["args"]
    (arguments,) = commands(script)
    assert arguments[0] == "pull"
    assert not problem(arguments)


def test_only_volumes_are_written_to(puller: dict[str, Any]) -> None:
    (script,) = puller["args"]
    mounts = [m["mountPath"] for m in puller["volumeMounts"] if not m.get("readOnly")]
    (arguments,) = commands(script)
    written = [arguments[arguments.index("-o") + 1]]
    written += [e["value"] for e in puller["env"] if e["name"] in ("HOME", "OCIMODEL_STATE_DIR")]
    for path in written:
        assert any(f"{path}/".startswith(f"{mount}/") for mount in mounts), path


@pytest.fixture
def pinned(tmp_path: Path) -> Iterator[str]:
    """A small model in a registry, by digest."""
    model = tmp_path / "origin"
    tiny_safetensors(model / "model.safetensors", {"w": (64, 64)})
    (model / "config.json").write_text("{}")
    with serve(f"oci:{tmp_path}/registry", listen="127.0.0.1:0") as registry:
        yield ocimodel.push(model, f"{registry.host}/team/minilm:v1").pinned


class Machine:
    """The container's paths below a folder, and its environment without anything of ours."""

    def __init__(self, puller: dict[str, Any], root: Path, model: str) -> None:
        self.root = root
        self.log = root / "termination-log"
        (root / "models").mkdir(parents=True)
        (root / "credentials").mkdir()
        (root / "credentials" / ".dockerconfigjson").write_text('{"auths": {}}')
        (root / "bin").mkdir()
        program = root / "bin" / "ocimodel"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ocimodel "$@"\n')
        program.chmod(0o755)
        (script,) = puller["args"]
        self.script = self._moved(script)
        environ = {e["name"]: self._moved(e["value"]) for e in puller["env"]}
        path = f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environ = {**environ, "MODEL": model, "PATH": path}

    def _moved(self, text: str) -> str:
        for path in ("/models", "/credentials"):
            text = text.replace(path, f"{self.root}{path}")
        return text.replace("/dev/termination-log", str(self.log))

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", self.script],
            env=self.environ,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def test_the_command_pulls_and_says_the_digest(
    puller: dict[str, Any], tmp_path: Path, pinned: str
) -> None:
    machine = Machine(puller, tmp_path / "node", pinned)
    for _ in ("first", "restarted"):
        done = machine.run()
        assert done.returncode == 0, done.stderr
        assert machine.log.read_text() == f"{pinned}\n"
        # the kubelet cuts at this
        assert machine.log.stat().st_size <= 4096
    pulled = machine.root / "models" / "minilm"
    assert sorted(p.name for p in pulled.iterdir()) == ["config.json", "model.safetensors"]
    assert all(p.stat().st_mode & 0o044 for p in pulled.iterdir())


def test_a_failure_leaves_the_log_to_the_fallback(
    puller: dict[str, Any], tmp_path: Path, pinned: str
) -> None:
    assert puller["terminationMessagePolicy"] == "FallbackToLogsOnError"
    wrong = re.sub(r"sha256:.*", f"sha256:{'0' * 64}", pinned)
    machine = Machine(puller, tmp_path / "node", wrong)
    done = machine.run()
    assert done.returncode == 3
    assert machine.log.read_text() == ""
    assert "was not found" in done.stderr


# the image


def test_the_image_is_built_from_what_is_there() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    lines = text.replace("\\\n", " ").splitlines()
    copied = [line.split()[1:-1] for line in lines if re.match(r"COPY (?!--from)", line)]
    assert copied
    missing = {n for names in copied for n in names if not (DEPLOY.parent / n).exists()}
    # the owner of README.md may not have written it yet
    assert missing <= {"README.md"}
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["65534:65534"]
    assert 'ENTRYPOINT ["ocimodel"]' in lines
    assert not any(line.startswith("ADD ") for line in lines)
