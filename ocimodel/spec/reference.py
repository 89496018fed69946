"""Names of artifacts: `host[:port]/repo[:tag][@digest]` and `oci:PATH[:TAG][@digest]`.

Source: distribution-spec v1.1, "Pulling manifests" (name and reference grammar).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from ocimodel.errors import InputError, UsageError
from ocimodel.spec.digest import parse_digest

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}
DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True)
class RegistryReference:
    """An artifact, or with neither tag nor digest a whole repository, in a registry."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def host(self) -> str:
        """The host that answers the API; Docker Hub's is not the one in its names."""
        return "registry-1.docker.io" if self.registry == "docker.io" else self.registry

    def __str__(self) -> str:
        return _suffixed(self.name, self.tag, self.digest)

    def at(self, digest: str) -> RegistryReference:
        """The same artifact pinned: `host/repo@sha256:…`, without a tag."""
        return replace(self, tag="", digest=digest)


@dataclass(frozen=True, slots=True)
class LayoutReference:
    """An artifact in an OCI image layout on disk."""

    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"oci:{self.path}"

    def __str__(self) -> str:
        # a colon in the last part would read as the mark of a tag
        end = "/" if ":" in self.path.rpartition("/")[2] and not self.tag else ""
        return _suffixed(self.name + end, self.tag, self.digest)

    def at(self, digest: str) -> LayoutReference:
        return replace(self, tag="", digest=digest)


Reference = RegistryReference | LayoutReference


def _suffixed(name: str, tag: str, digest: str) -> str:
    return name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


def parse_reference(text: str) -> Reference:
    """UsageError, with what is wrong and how a reference looks, for anything malformed."""
    name, at, digest = text.partition("@") if not text.startswith("oci:") else text.rpartition("@")
    if text.startswith("oci:"):
        # a path may itself hold an @, so only a trailing digest counts
        if at and digest.startswith(("sha256:", "sha512:")):
            return _layout(name, _digest(text, digest))
        return _layout(text, "")
    return _registry(text, name, _digest(text, digest) if at else "")


def _digest(text: str, digest: str) -> str:
    try:
        return parse_digest(digest)
    except InputError as error:
        raise UsageError(f"{text!r}: {error}", hint=error.hint) from None


def _layout(name: str, digest: str) -> LayoutReference:
    path, colon, tag = name.removeprefix("oci:").rpartition(":")
    if not colon or "/" in tag:
        path, tag = name.removeprefix("oci:"), ""
    if not path or "\0" in path:
        raise UsageError(f"{name!r} names no directory", hint="write oci:PATH or oci:PATH:TAG")
    if name.endswith(":"):
        raise UsageError(f"{name!r} ends in an empty tag")
    return LayoutReference(path, check_tag(tag) if tag else "", digest)


def _registry(text: str, name: str, digest: str) -> RegistryReference:
    registry, slash, rest = name.partition("/")
    if not slash or not _looks_like_host(registry):
        raise UsageError(
            f"{text!r} names no registry",
            hint=f"write host/repository:tag, such as docker.io/{name}, or oci:PATH:TAG",
        )
    host = _HOST.fullmatch(registry)
    if not host or not 0 < int(host[1] or 443) < 1 << 16:
        raise UsageError(f"{registry!r} in {text!r} is no host[:port]")
    repository, _, tag = rest.partition(":")
    if registry in _HUB:
        registry = "docker.io"
        repository = repository if "/" in repository else f"library/{repository}"
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
        raise UsageError(
            f"{repository!r} in {text!r} is no repository name",
            hint="lower-case letters, digits and single . _ - between them, parted by /",
        )
    if ":" in rest and not tag:
        raise UsageError(f"{text!r} ends in an empty tag")
    return RegistryReference(registry, repository, check_tag(tag) if tag else "", digest)


def _looks_like_host(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"


def check_tag(tag: str) -> str:
    """`tag` itself when it is a legal tag; else UsageError."""
    if not _TAG.fullmatch(tag):
        raise UsageError(
            f"{tag!r} is no tag", hint="up to 128 of A-Z a-z 0-9 _ . - and neither . nor - first"
        )
    return tag


def is_loopback(host: str) -> bool:
    """Whether `host[:port]` names this machine, where plain HTTP is the custom."""
    bare = re.sub(r":\d+$", "", host).strip("[]")
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False
