"""login and logout: credentials checked against the registry, then stored as docker does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ocimodel.errors import UsageError
from ocimodel.events import Observer, ignore
from ocimodel.ops.access import client_options
from ocimodel.registry.credentials import Credential, default_path, erase, save
from ocimodel.registry.transport import Client, ClientOptions
from ocimodel.spec.reference import RegistryReference, parse_reference


@dataclass(frozen=True, slots=True)
class LoginResult:
    """`stored`: the file, or the credential helper, that keeps (or kept) the credentials."""

    host: str
    username: str = ""
    stored: str = ""
    removed: bool = False


def login(
    host: str,
    username: str,
    password: str,
    *,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> LoginResult:
    """Check a user name and password, or token, with the registry, and store them.

    An empty `username` stores `password` as an identity token. AuthenticationError if the registry
    refuses; then nothing is stored.
    """
    if not password:
        raise UsageError("no password given", hint="ocimodel login HOST -u USER --password-stdin")
    options = client_options(client)
    registry = _registry(host)
    credential = (
        Credential(username=username, password=password)
        if username
        else Credential(identity_token=password)
    )
    connection = Client(registry.host, options, _Given(credential), observer=observer)
    # 404: a registry behind a path-routing proxy may not answer here, and asked for nothing
    connection.request("GET", "/v2/", accept=(200, 404), what=f"{registry.host}/v2/").close()
    path = _config_path(options)
    stored = save(path, registry.registry, credential, environ=options.environ)
    return LoginResult(registry.registry, username, stored)


def logout(host: str, *, client: ClientOptions | None = None) -> LoginResult:
    """Forget what is stored for a registry; `removed` tells whether there was anything."""
    options = client_options(client)
    registry = _registry(host)
    path = _config_path(options)
    removed = erase(path, registry.registry, environ=options.environ)
    return LoginResult(registry.registry, stored=str(path), removed=removed)


class _Given:
    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def lookup(self, host: str, repository: str = "") -> Credential | None:
        return self._credential


def _config_path(options: ClientOptions) -> Path:
    return options.registry_config or default_path(options.environ)


def _registry(host: str) -> RegistryReference:
    """Any way to write a registry's name: with a scheme, a path, or nothing but the host."""
    bare = host.partition("://")[2] or host
    bare = bare.partition("/")[0]
    if not bare:
        raise UsageError(f"{host!r} names no registry")
    reference = parse_reference(f"{bare}/any/name")
    assert isinstance(reference, RegistryReference)
    return reference
