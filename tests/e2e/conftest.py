"""The program as a process: run it, and hold what it prints against the schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import ocimodel
from tests.servers.models import tiny_safetensors
from tests.servers.registry import DockerRegistry
from tests.trees import noise, write_tree

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas" / "cli"
PROGRAM = (sys.executable, "-m", "ocimodel")
TIMEOUT_S = 60


@dataclass(frozen=True)
class Done:
    """A finished run."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output as the one JSON object that it must be, valid by its schema."""
        found = json.loads(self.out)
        name, _, version = found["schema"].removeprefix("ocimodel.").partition("/")
        schema = json.loads((SCHEMAS / f"{name}.{version}.schema.json").read_text("utf-8"))
        jsonschema.Draft202012Validator(schema).validate(found)
        assert set(found) <= set(schema["properties"]), "a member that the schema does not know"
        return dict(found)


@dataclass
class Cli:
    """`cli("pull", REF, "-o", "x")` runs to the end in `cwd` and expects exit code 0."""

    cwd: Path
    program: tuple[str, ...] = PROGRAM
    env: dict[str, str] = field(default_factory=dict)

    def __call__(
        self,
        *arguments: str | Path,
        code: int = 0,
        env: Mapping[str, str] = {},
        stdin: str = "",
        cwd: Path | None = None,
    ) -> Done:
        done = subprocess.run(
            [*self.program, *map(str, arguments)],
            cwd=cwd or self.cwd,
            env=self.environ(env),
            input=stdin.encode(),
            capture_output=True,
            timeout=TIMEOUT_S,
        )
        found = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in found.err, found.err
        assert found.code == code, f"{found.code} from {arguments}: {found.out}{found.err}"
        return found

    def environ(self, more: Mapping[str, str] = {}) -> dict[str, str]:
        chosen = {**os.environ, "PYTHONPATH": str(ROOT), **self.env, **more}
        return {name: value for name, value in chosen.items() if value is not None}

    @contextmanager
    def started(
        self, *arguments: str | Path, env: Mapping[str, str] = {}, **more: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The running process; killed at the end if it is still there."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        process = subprocess.Popen(
            [*self.program, *map(str, arguments)],
            cwd=self.cwd,
            env=self.environ(env),
            stdin=subprocess.DEVNULL,
            **pipes,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def cli(work: Path) -> Cli:
    # a runner's own CI, terminal and colours must not decide what is seen
    absent: dict[str, Any] = {"CI": None, "NO_COLOR": None, "FORCE_COLOR": None, "COLUMNS": None}
    return Cli(work, env=absent)


@pytest.fixture
def model(work: Path) -> Path:
    """Weights, and names of every kind."""
    tiny_safetensors(work / "model" / "model.safetensors", {"layer.0.weight": (64, 32)})
    write_tree(
        work / "model",
        {
            "config.json": b'{"model_type": "bert"}\n',
            "größe 1.txt": b"gro\xc3\x9f\n",
            "a/b/deep.bin": noise(100_000),
            "empty": b"",
            "nothing/": b"",
            "run.sh": b"#!/bin/sh\n",
        },
    )
    (work / "model" / "run.sh").chmod(0o755)
    return work / "model"


@pytest.fixture
def repo(docker_registry: DockerRegistry, tmp_path: Path) -> str:
    """A repository of the test's own: `host/repo`."""
    name = "".join(c for c in tmp_path.name.lower() if c.isalnum())
    return f"{docker_registry.host}/cli/{name}"


@pytest.fixture
def pushed(model: Path, repo: str) -> str:
    """`host/repo:v1`, the model in the registry."""
    ocimodel.push(model, f"{repo}:v1")
    return f"{repo}:v1"


@pytest.fixture
def error(cli: Cli) -> Callable[..., dict[str, Any]]:
    """`error(code, *arguments)`: the error object of a run that must fail so, with a hint."""

    def fails(code: int, *arguments: str | Path, **more: Any) -> dict[str, Any]:
        done = cli(*arguments, "--json", code=code, **more)
        document = done.document
        told = document["error"]
        assert document["schema"] == "ocimodel.error/v1"
        assert document["exitCode"] == code
        assert f"error: {told['message']}\n" in done.err
        assert f"  hint: {told['hint']}\n" in done.err
        assert told["hint"]
        return dict(told)

    return fails
