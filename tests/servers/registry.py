"""Real registries as child processes: docker-registry, ggcr (referrers API), zot."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.servers.process import LOOPBACK, ServerError, ServerProcess
from tests.servers.tools import tool, why_absent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.servers.certs import Certs
    from tests.servers.token_server import TokenServer


class RegistryProcess:
    """A registry on a loopback port; a context manager with `.host` and `.url`."""

    binary = ""
    scheme = "http"
    name = LOOPBACK

    def __init__(self, tmp: Path) -> None:
        found = tool(self.binary)
        if found is None:
            raise ServerError(why_absent(self.binary))
        tmp.mkdir(parents=True, exist_ok=True)
        self.path = found
        self.tmp = tmp
        self.process = ServerProcess(self.argv, tmp / f"{self.binary}.log")

    def argv(self, port: int) -> Sequence[str]:
        """The command line, after its configuration for `port` was written."""
        raise NotImplementedError

    @property
    def host(self) -> str:
        """`NAME:PORT` as it stands in a reference."""
        return f"{self.name}:{self.process.port}"

    @property
    def url(self) -> str:
        """The origin."""
        return f"{self.scheme}://{self.host}"

    def restart(self) -> None:
        """Stop and start on the same port and storage."""
        self.process.restart()

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.stop()


class DockerRegistry(RegistryProcess):
    """Debian's docker-registry: plain, or with htpasswd, TLS, or a token server.

    With `tls` its host is `localhost:PORT`; `client_cert` then asks every client for one
    that the same CA signed. No referrers API: the tag fallback is exercised.
    """

    binary = "docker-registry"

    def __init__(
        self,
        tmp: Path,
        *,
        htpasswd: tuple[str, str] | None = None,
        tls: Certs | None = None,
        token: TokenServer | None = None,
        delete: bool = True,
        storage_dir: Path | None = None,
        client_cert: bool = False,
    ) -> None:
        super().__init__(tmp)
        if tls is not None:
            self.scheme, self.name = "https", "localhost"
        self.storage_dir = storage_dir or tmp / "storage"
        self._htpasswd = htpasswd
        self._tls = tls
        self._token = token
        self._delete = delete
        self._client_cert = client_cert

    def argv(self, port: int) -> Sequence[str]:
        """`docker-registry serve CONFIG`."""
        config = self.tmp / "config.yml"
        config.write_text(json.dumps(self._config(port)))  # JSON is YAML
        return [str(self.path), "serve", str(config)]

    def blobs(self) -> set[str]:
        """The digests of all stored blobs, manifests included."""
        root = self.storage_dir / "docker/registry/v2/blobs/sha256"
        return {f"sha256:{data.parent.name}" for data in root.glob("*/*/data")}

    def blob_path(self, digest: str) -> Path:
        """The file of a stored blob, for a test that tampers with it."""
        hexdigest = digest.removeprefix("sha256:")
        root = self.storage_dir / "docker/registry/v2/blobs/sha256"
        return root / hexdigest[:2] / hexdigest / "data"

    def _config(self, port: int) -> dict[str, Any]:
        return {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage_dir)},
                "delete": {"enabled": self._delete},
            },
            "http": {"addr": f"{LOOPBACK}:{port}", "secret": "test", **self._tls_config()},
            **self._auth_config(),
        }

    def _tls_config(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        tls: dict[str, Any] = {"certificate": str(self._tls.cert), "key": str(self._tls.key)}
        if self._client_cert:
            tls["clientcas"] = [str(self._tls.ca)]
        return {"tls": tls}

    def _auth_config(self) -> dict[str, Any]:
        if self._htpasswd is not None:
            path = self.tmp / "htpasswd"
            path.write_text(htpasswd_line(*self._htpasswd))
            return {"auth": {"htpasswd": {"realm": "test", "path": str(path)}}}
        if self._token is not None:
            token = {
                "realm": self._token.realm,
                "service": self._token.service,
                "issuer": self._token.issuer,
                "rootcertbundle": str(self._token.root_bundle),
            }
            return {"auth": {"token": token}}
        return {}


class GgcrRegistry(RegistryProcess):
    """go-containerregistry's registry with the referrers API (tests/servers/ggcr)."""

    binary = "ggcr"

    def argv(self, port: int) -> Sequence[str]:
        """`ggcr ADDRESS FOLDER`; manifests are in memory, so a restart loses them."""
        storage = self.tmp / "storage"
        storage.mkdir(exist_ok=True)
        return [str(self.path), f"{LOOPBACK}:{port}", str(storage)]


class Zot(RegistryProcess):
    """zot without authentication, where a zot binary is at hand."""

    binary = "zot"

    def argv(self, port: int) -> Sequence[str]:
        """`zot serve CONFIG`."""
        config = {
            "distSpecVersion": "1.1.1",
            "storage": {"rootDirectory": str(self.tmp / "storage"), "gc": False},
            "http": {"address": LOOPBACK, "port": str(port)},
            "log": {"level": "error"},
        }
        path = self.tmp / "zot.json"
        path.write_text(json.dumps(config))
        return [str(self.path), "serve", str(path)]


def htpasswd_line(user: str, password: str) -> str:
    """An htpasswd entry with bcrypt, by apache's tool or the bcrypt package."""
    found = tool("htpasswd")
    if found is not None:
        argv = [str(found), "-nbB", "-C", "4", user, password]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    try:
        import bcrypt
    except ImportError:
        raise ServerError(why_absent("htpasswd")) from None

    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    return f"{user}:{hashed}\n"
