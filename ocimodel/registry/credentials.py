"""Whose credentials a registry gets: the files and helpers that docker, podman and oras share.

Search order, the first match per key wins:

    OCIMODEL_USERNAME + OCIMODEL_PASSWORD     bound to OCIMODEL_REGISTRY when that is set
    --registry-config                         when given, no other file is read
    REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json, ~/.docker/config.json,
    $XDG_RUNTIME_DIR/containers/auth.json, $XDG_CONFIG_HOME/containers/auth.json

The longest namespace prefix is tried in every file before the next shorter one; inside one file
credHelpers come before credsStore before auths. Sources: docker's config.json,
containers-auth.json(5), the docker-credential-helpers protocol.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocimodel.errors import AuthenticationError, InputError, TargetError, UsageError
from ocimodel.registry.helpers import HelperMissingError, run_helper

HUB_KEY = "https://index.docker.io/v1/"
HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")

_MAX_BYTES = 1 << 20  # of a file
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")
_WRITING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Credential:
    """What proves who we are. `repr` shows the user name at most."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


class Credentials:
    """Finds credentials; files are read once and a helper is asked once for each key.

    Safe to share between threads. `environ` and `home` stand in for the process's own.
    """

    def __init__(
        self,
        *,
        registry_config: Path | None = None,
        environ: Mapping[str, str] | None = None,
        home: Path | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._named, self._implied = _locations(self._environ, home)
        if registry_config is not None:
            self._named, self._implied = [registry_config], []
        self._must_exist = registry_config is not None
        self._lock = threading.Lock()
        self._configs: list[_Config] | None = None
        self._asked: dict[tuple[str, str], Credential | None] = {}

    def lookup(
        self, host: str, repository: str = "", *, explicit_env: bool = True
    ) -> Credential | None:
        """Return the credential for `host[:port]` and the repository in it, or None.

        `explicit_env=False` leaves OCIMODEL_USERNAME/PASSWORD out: pass it for a mirror, which
        must never see what was given for the registry itself.
        Raises InputError (malformed file), AuthenticationError (helper trouble).
        """
        host = host.lower()
        if explicit_env and (given := self._from_environ(host)) is not None:
            return given
        with self._lock:
            return self._search(host, repository)

    def _from_environ(self, host: str) -> Credential | None:
        bound = self._environ.get("OCIMODEL_REGISTRY", "")
        if bound and _bare(bound).partition("/")[0] not in _hosts(host):
            return None
        password = self._environ.get("OCIMODEL_PASSWORD", "")
        if not password:
            return None
        username = self._environ.get("OCIMODEL_USERNAME", "")
        if not username:
            raise AuthenticationError(
                "OCIMODEL_PASSWORD is set, OCIMODEL_USERNAME is not", hint="set both or neither"
            )
        return Credential(username, password)

    def _search(self, host: str, repository: str) -> Credential | None:
        configs = self._load()
        for keys in _levels(host, repository):
            for config in configs:
                if (found := self._in_config(config, host, keys)) is not None:
                    return found
        return None

    def _in_config(self, config: _Config, host: str, keys: list[str]) -> Credential | None:
        # Helpers know hosts by these names; the last level of keys is the host itself.
        names = _store_keys(host) if host in keys else ()
        for key in keys:
            if helper := config.helper(key):
                for name in dict.fromkeys((key, *names)):
                    if (found := self._ask(helper, name)) is not None:
                        return found
        if config.store:
            for name in names:
                with contextlib.suppress(HelperMissingError):
                    if (found := self._ask(config.store, name)) is not None:
                        return found
        for key in keys:
            if key in config.auths:
                found = _parse_entry(config.auths[key], f"{config.path}: auths[{key!r}]")
                if found is not None:
                    return found
        return None

    def _ask(self, name: str, key: str) -> Credential | None:
        if (name, key) not in self._asked:
            self._asked[name, key] = _helper_get(name, key, self._environ)
        return self._asked[name, key]

    def _load(self) -> list[_Config]:
        if self._configs is None:
            found = [_read(path, must_exist=self._must_exist) for path in self._named]
            # A home that this user may not enter (a random uid in a container) holds no login.
            found += [_read(path, may_be_closed=True) for path in self._implied]
            self._configs = [config for config in found if config is not None]
        return self._configs


def default_path(environ: Mapping[str, str] | None = None, home: Path | None = None) -> Path:
    """Return the file that login and logout write: the first one that `lookup` would read."""
    environ = os.environ if environ is None else environ
    named, implied = _locations(environ, home)
    if not named:
        return implied[0]
    if environ.get("REGISTRY_AUTH_FILE"):
        return named[0]
    if os.access(named[0], os.F_OK):
        return _file_in(named[0])
    return named[0] / "config.json"  # DOCKER_CONFIG is a folder, even one that is still to come


def save(
    path: Path, host: str, credential: Credential, *, environ: Mapping[str, str] | None = None
) -> str:
    """Keep the credential for `host` and return where it went: the file, or the helper's name.

    The file is mode 0600, replaced atomically, keeps every unrelated key, and is written through a
    symlink. Where it names a credsStore or credHelper the secret goes there and not into the file.
    Raises UsageError, InputError, TargetError, AuthenticationError (helper trouble).
    """
    if ":" in credential.username:
        raise UsageError("a user name cannot hold a colon: Basic authentication ends it there")
    key = _key(host)
    with _WRITING:
        config = _read(path) or _Config(_file_in(path), {})
        place, entry = str(config.path), _entry(credential)
        if name := _helper_for(config, host):
            _helper_store(name, key, credential, os.environ if environ is None else environ)
            place, entry = f"docker-credential-{name}", {}
        elif config.store:
            raise UsageError(f"docker-credential-{config.store} keeps hosts, not {key}")
        auths = dict(config.auths)
        auths[key] = entry
        _write(config.path, {**config.raw, "auths": auths})
    return place


def erase(path: Path, host: str, *, environ: Mapping[str, str] | None = None) -> bool:
    """Forget what this file or its helper holds for `host`; say whether there was anything.

    Raises InputError, TargetError, AuthenticationError (helper trouble).
    """
    env = os.environ if environ is None else environ
    with _WRITING:
        config = _read(path)
        if config is None:
            return False
        removed = False
        if name := _helper_for(config, host):
            for known in _store_keys(_bare(host)):
                with contextlib.suppress(HelperMissingError):
                    if _helper_get(name, known, env) is not None:
                        run_helper(name, "erase", known.encode(), env)
                        removed = True
        gone = set(_forms(_bare(host))) & set(config.auths)
        if gone:
            auths = {k: v for k, v in config.auths.items() if k not in gone}
            _write(config.path, {**config.raw, "auths": auths})
        return removed or bool(gone)


# --- where to look ---


def _locations(environ: Mapping[str, str], home: Path | None) -> tuple[list[Path], list[Path]]:
    """Return the files that the user named, and those implied by convention, in search order."""
    home = home or Path(environ.get("HOME") or "/nonexistent")
    named = [Path(environ[v]) for v in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG") if environ.get(v)]
    implied = [home / ".docker" / "config.json"]
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        implied.append(Path(runtime) / "containers" / "auth.json")
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    implied.append(config_home / "containers" / "auth.json")
    return named, implied


def _file_in(path: Path) -> Path:
    """Return the file itself, or the one in a folder: a Kubernetes secret, DOCKER_CONFIG."""
    if not path.is_dir():
        return path
    mounted = path / ".dockerconfigjson"
    return mounted if os.access(mounted, os.F_OK) else path / "config.json"


def _bare(host: str) -> str:
    """`https://Host/v1/` → `host`; a namespace behind the host stays."""
    bare = re.sub(r"^https?://", "", host.strip(), flags=re.IGNORECASE)
    name, slash, path = re.sub(r"/(v[12])?/*$", "", bare).partition("/")
    if not name:
        raise UsageError(f"{host!r} names no registry host")
    return name.lower() + slash + path


def _key(host: str) -> str:
    bare = _bare(host)
    return HUB_KEY if bare in HUB_HOSTS else bare


def _hosts(host: str) -> tuple[str, ...]:
    return HUB_HOSTS if host in HUB_HOSTS else (host,)


def _forms(host: str) -> list[str]:
    """Every way in which the tools write one host as a key, the most usual first."""
    forms = [HUB_KEY] if host in HUB_HOSTS else []
    for scheme in ("", "https://", "http://"):
        for name in _hosts(host):
            forms += [f"{scheme}{name}{tail}" for tail in ("", "/", "/v1/", "/v2/", "/v1", "/v2")]
    return forms


def _store_keys(host: str) -> tuple[str, ...]:
    return (HUB_KEY, "docker.io") if host in HUB_HOSTS else (host, f"https://{host}")


def _levels(host: str, repository: str) -> Iterator[list[str]]:
    """The keys to try, the longest namespace first: [h/ns/repo], [h/ns], [h, https://h, …]."""
    parts = [part for part in repository.split("/") if part]
    for end in range(len(parts), 0, -1):
        yield [f"{name}/{'/'.join(parts[:end])}" for name in _hosts(host)]
    yield _forms(host)


# --- one file ---


@dataclass(frozen=True, slots=True)
class _Config:
    path: Path
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def auths(self) -> Mapping[str, Any]:
        return self._object("auths")

    @property
    def store(self) -> str:
        return self._helper_name("credsStore", self.raw.get("credsStore"))

    def helper(self, key: str) -> str:
        return self._helper_name("credHelpers", self._object("credHelpers").get(key))

    def _object(self, name: str) -> Mapping[str, Any]:
        value = self.raw.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InputError(f"{self.path}: {name} is not a JSON object")
        return value

    def _helper_name(self, where: str, value: object) -> str:
        """Return a name that is safe to run, or an empty string."""
        if value is None or value == "":
            return ""
        if not isinstance(value, str) or not _HELPER_NAME.fullmatch(value):
            raise InputError(f"{self.path}: {where} names no credential helper: {value!r}")
        return value


def _read(path: Path, *, must_exist: bool = False, may_be_closed: bool = False) -> _Config | None:
    try:
        file = _file_in(path)
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            raise InputError(f"the registry configuration {path} does not exist") from None
        return None
    except OSError as error:
        if may_be_closed and isinstance(error, PermissionError):
            return None
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise InputError(f"{file} is over {_MAX_BYTES} bytes: not a registry configuration")
    try:
        raw = json.loads(content.decode("utf-8-sig")) if content.strip() else {}
    except (ValueError, RecursionError):
        # `from None`: the decoder's error holds the document, and so the secrets.
        raise InputError(f"{file} is not valid JSON", hint="ocimodel login HOST") from None
    if not isinstance(raw, dict):
        raise InputError(f"{file} is not a JSON object")
    return _Config(file, raw)


def _parse_entry(entry: object, where: str) -> Credential | None:
    """One value of `auths`; None for the empty one that tools leave beside a credsStore."""
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not a JSON object")
    names = ("auth", "username", "password", "identitytoken", "registrytoken")
    values = [entry.get(name) or "" for name in names]
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"{where} holds a value that is not a string")
    auth, username, password, identity_token, registry_token = values
    if auth:
        try:
            pair = base64.b64decode(auth, validate=True).decode()
        except (binascii.Error, ValueError):
            raise InputError(f"{where}.auth is not base64 of user:password") from None
        username, colon, password = pair.partition(":")
        if not colon:
            raise InputError(f"{where}.auth is not base64 of user:password")
        password = password.rstrip("\0")  # docker's own writer once padded with them
    if not (password or identity_token or registry_token):
        return None
    return Credential(username, password, identity_token, registry_token)


def _entry(credential: Credential) -> dict[str, str]:
    entry = {}
    if credential.username or credential.password:
        pair = f"{credential.username}:{credential.password}"
        entry["auth"] = base64.b64encode(pair.encode()).decode()
    if credential.identity_token:
        entry["identitytoken"] = credential.identity_token
    if credential.registry_token:
        entry["registrytoken"] = credential.registry_token
    return entry


def _write(path: Path, raw: Mapping[str, Any]) -> None:
    temporary = None
    try:
        target = path.resolve()  # dotfiles are often symlinks: replace what they point to
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        import tempfile

        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(raw, stream, indent="\t", ensure_ascii=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except (OSError, RuntimeError) as error:  # RuntimeError: a symlink loop, before Python 3.13
        raise TargetError(f"cannot write {path}: {error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


# --- credential helpers: docker-credential-NAME get|store|erase, JSON on the pipes ---


def _helper_for(config: _Config, host: str) -> str:
    """Return the helper that keeps the secrets of this host or namespace, or an empty string."""
    bare = _bare(host)
    named = next(filter(None, map(config.helper, _forms(bare))), "")
    return named or ("" if "/" in bare else config.store)


def _helper_get(name: str, key: str, environ: Mapping[str, str]) -> Credential | None:
    output = run_helper(name, "get", key.encode(), environ)
    if output is None:
        return None
    try:
        answer = json.loads(output)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise AuthenticationError(f"docker-credential-{name} printed no credential") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise AuthenticationError(f"docker-credential-{name} printed no credential")
    if not secret:
        return None
    if username == "<token>":
        return Credential(identity_token=secret)
    return Credential(username, secret)


def _helper_store(name: str, key: str, credential: Credential, env: Mapping[str, str]) -> None:
    if credential.registry_token:
        raise UsageError(f"docker-credential-{name} cannot keep a registry token")
    username, secret = credential.username, credential.password
    if credential.identity_token:
        username, secret = "<token>", credential.identity_token
    document = {"ServerURL": key, "Username": username, "Secret": secret}
    run_helper(name, "store", json.dumps(document).encode(), env)
