"""Where else a registry's content may be pulled from, and the TLS files kept beside its name.

For pulls only: a push always goes to the registry itself. A mirror is safe because every byte is
verified against a digest; who may turn a tag into that digest is what `can_resolve` decides.

Order: `--mirror` values, then containerd's hosts.toml, then registries.conf. The registry itself
is not in the answer (the caller goes there last) unless a file names another place in its stead.

Sources: containerd docs/hosts.md, containers-registries.conf(5) version 2, containers-certs.d(5).
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlencode, urlsplit

from ocimodel.errors import InputError, PolicyError, UsageError
from ocimodel.registry.credentials import HUB_HOSTS

HOSTS_DIRS = (Path("/etc/containerd/certs.d"),)
CERTS_DIRS = (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))

_MAX_BYTES = 1 << 20
_CAPABILITIES = ("pull", "resolve", "push")  # containerd's default: all of them


@dataclass(frozen=True, slots=True)
class Mirror:
    """One place to pull from. `url` is `scheme://host[:port][/path]`, without a final slash.

    `query` goes on every request; `headers` may hold secrets and go to this origin only.
    """

    url: str
    can_resolve: bool
    can_pull: bool = True
    ca_files: tuple[Path, ...] = ()
    client_certs: tuple[tuple[Path, Path | None], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    verify: bool = True
    override_path: bool = False
    query: str = ""
    prefix: str = ""  # of the repository asked for, which `replacement` takes the place of
    replacement: str = ""

    @property
    def api_root(self) -> str:
        """The URL that stands for `/v2` of this mirror, without a final slash."""
        ready = self.override_path or urlsplit(self.url).path.endswith("/v2")
        return self.url if ready else f"{self.url}/v2"

    def repository_for(self, repository: str) -> str:
        """Return the name that this repository has on the mirror."""
        rest = repository
        if self.prefix:
            if repository != self.prefix and not repository.startswith(f"{self.prefix}/"):
                return repository
            rest = repository[len(self.prefix) :]
        return "/".join(part for part in (self.replacement, rest.strip("/")) if part)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificates for one registry: authorities to trust, and pairs to show. PEM files."""

    ca_files: tuple[Path, ...] = ()
    client_certs: tuple[tuple[Path, Path], ...] = ()


def mirrors_for(
    host: str,
    repository: str,
    *,
    explicit: Sequence[str] = (),
    hosts_dirs: Sequence[Path] = (),
    registries_conf: Sequence[Path] = (),
) -> tuple[Mirror, ...]:
    """Return where `host/repository` may be pulled from, in the order to try.

    `explicit`: `--mirror` values. `hosts_dirs`: folders of `<host>/hosts.toml`. `registries_conf`:
    files, or folders of `*.conf`; a later one replaces the registries of the same prefix.
    Raises UsageError (a `--mirror` value), InputError (malformed file), PolicyError (blocked).
    """
    host = host.lower()
    found = [parse_mirror(value, host) for value in explicit]
    if file := _hosts_toml(host, hosts_dirs):
        path, content = file
        found += parse_hosts_toml(content, host, path)
    registries: dict[str, Registry] = {}
    for path, content in _conf_files(registries_conf):
        registries.update((r.prefix, r) for r in parse_registries_conf(content, path))
    found += select(list(registries.values()), host, repository)
    return tuple(found)


def parse_mirror(value: str, host: str) -> Mirror:
    """Read a `--mirror` value, `[http[s]://]host[:port][/repository/prefix]`, for this registry.

    It may not resolve tags. Without a prefix it is told the registry by `ns`, which Spegel and
    Dragonfly need and other registries ignore. Plain HTTP for loopback, or when the value says so.
    """
    url, path = _origin(value, "http" if _is_loopback(value) else "https")
    if not url:
        raise UsageError(f"--mirror {value!r} is no [http[s]://]host[:port][/prefix]")
    query = "" if path else _ns(host)
    return Mirror(url, can_resolve=False, query=query, replacement=path)


# --- containerd hosts.toml ---


def parse_hosts_toml(content: str, host: str, path: Path) -> list[Mirror]:
    """Return what a hosts.toml names for the registry `host`, in its order.

    `path` is named in errors, and relative certificates lie beside it. `server` comes last, and
    only where it is another place than `host` or has settings of its own. Raises InputError.
    """
    document = _toml(content, path)
    hosts = document.get("host", {})
    if not isinstance(hosts, dict):
        raise InputError(f"{path}: host is not a table")
    found = [_hosts_entry(url, table, host, path) for url, table in hosts.items()]
    if server := _text(document, "server", path):
        entry = _hosts_entry(server, document, host, path)
        if urlsplit(entry.url).netloc.lower() in _names(host):
            entry = replace(entry, query="")
        if entry != Mirror(entry.url, can_resolve=True):
            found.append(entry)
    return [mirror for mirror in found if mirror.can_pull or mirror.can_resolve]


def _hosts_entry(url: str, table: object, host: str, path: Path) -> Mirror:
    if not isinstance(table, dict):
        raise InputError(f"{path}: host.{url!r} is not a table")
    base, root = _origin(url, "https")
    if not base:
        raise InputError(f"{path}: {url!r} is no registry URL")
    capabilities = table.get("capabilities", list(_CAPABILITIES))
    if not _is_texts(capabilities):
        raise InputError(f"{path}: capabilities of {url!r} are no list of strings")
    return Mirror(
        f"{base}/{root}" if root else base,
        can_resolve="resolve" in capabilities,
        can_pull="pull" in capabilities,
        ca_files=tuple(path.parent / name for name in _texts(table, "ca", path)),
        client_certs=_client_certs(table.get("client", []), path),
        headers=_headers(table.get("header", {}), path),
        verify=not _flag(table, "skip_verify", path),
        override_path=_flag(table, "override_path", path),
        query=_ns(host),
    )


def _client_certs(value: object, path: Path) -> tuple[tuple[Path, Path | None], ...]:
    """`"both.pem"`, `["both.pem", …]` or `[["cert.pem", "key.pem"], …]`."""
    pairs: list[tuple[Path, Path | None]] = []
    for item in value if isinstance(value, list) else [value]:
        names = [item] if isinstance(item, str) else item
        if not _is_texts(names) or len(names) not in (1, 2):
            raise InputError(f"{path}: client is no file and no list of [certificate, key]")
        key = path.parent / names[1] if len(names) == 2 and names[1] else None
        pairs.append((path.parent / names[0], key))
    return tuple(pairs)


def _headers(value: object, path: Path) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: header is not a table")
    headers = {}
    for name, item in value.items():
        values = [item] if isinstance(item, str) else item
        if not _is_texts(values) or not all(text.isprintable() for text in (name, *values)):
            raise InputError(f"{path}: the header {name!r} is no string and no list of strings")
        headers[name] = ", ".join(values)
    return headers


def _hosts_toml(host: str, roots: Sequence[Path]) -> tuple[Path, str] | None:
    # containerd writes host_port_ where a file name cannot hold a colon.
    names = [n for h in _names(host) for n in (h, h.replace(":", "_") + "_" * (":" in h))]
    for name in (*names, "_default"):
        for root in roots if _is_file_name(name) else ():
            path = root / name / "hosts.toml"
            if (content := _read(path)) is not None:
                return path, content
    return None


# --- containers registries.conf, version 2 ---


@dataclass(frozen=True, slots=True)
class Registry:
    """One [[registry]]: what begins with `prefix` lies at `location`, or on a mirror of it.

    A mirror here is (location, insecure, pull-from-mirror).
    """

    prefix: str
    location: str
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[tuple[str, bool, str], ...] = ()

    def match(self, name: str) -> str:
        """Return the part of `host/repository` that this entry stands for, or an empty string."""
        if self.prefix.startswith("*."):
            subdomain, domain, rest = name.partition(self.prefix[1:])
            good = domain and subdomain and "/" not in subdomain and rest[:1] in ("", "/")
            return subdomain + domain if good else ""
        return self.prefix if f"{name}/".startswith(f"{self.prefix}/") else ""


def parse_registries_conf(content: str, path: Path) -> list[Registry]:
    """Return the [[registry]] entries; other settings are not ours. Raises InputError."""
    entries = _toml(content, path).get("registry", [])
    return [_registry(table, path) for table in _tables(entries, "registry", path)]


def _registry(table: Mapping[str, Any], path: Path) -> Registry:
    location = _text(table, "location", path).strip("/")
    prefix = _text(table, "prefix", path).strip("/") or location
    if not prefix:
        raise InputError(f"{path}: a [[registry]] has neither prefix nor location")
    if not location and not prefix.startswith("*."):
        location = prefix
    digests_only = _flag(table, "mirror-by-digest-only", path)
    mirrors = []
    for mirror in _tables(table.get("mirror", []), "registry.mirror", path):
        place = _text(mirror, "location", path).strip("/")
        kind = _text(mirror, "pull-from-mirror", path) or ("digest-only" if digests_only else "all")
        if not place or kind not in ("all", "digest-only", "tag-only"):
            raise InputError(f"{path}: a mirror of {prefix} has no location or a wrong kind {kind}")
        mirrors.append((place, _flag(mirror, "insecure", path), kind))
    for place in filter(None, (location, *(mirror[0] for mirror in mirrors))):
        if "://" in place or not _origin(place, "https")[0]:
            raise InputError(f"{path}: {place!r} is no host[:port][/path]")
    insecure, blocked = _flag(table, "insecure", path), _flag(table, "blocked", path)
    return Registry(prefix, location, insecure, blocked, tuple(mirrors))


def select(registries: Sequence[Registry], host: str, repository: str) -> list[Mirror]:
    """Return the places of the entry with the longest matching prefix.

    The entry's own location comes last, if it is not simply `host/repository`.
    Raises PolicyError where that entry is blocked.
    """
    name = f"{_names(host)[0]}/{repository}"
    prefix, registry = "", None
    for candidate in sorted(
        registries, key=lambda r: (not r.prefix.startswith("*."), len(r.prefix))
    ):
        if (matched := candidate.match(name)) and len(matched) >= len(prefix):
            prefix, registry = matched, candidate  # of equal matches, the last sorted is narrowest
    if registry is None:
        return []
    if registry.blocked:
        raise PolicyError(
            f"registries.conf blocks {prefix}", hint="use another registry, or change blocked"
        )
    found = []
    for location, insecure, kind in registry.mirrors:
        found += _places(location, prefix, insecure, kind)
    location = registry.location or prefix
    if location != prefix or registry.insecure:
        found += _places(location, prefix, registry.insecure, "all")
    return found


def _places(location: str, prefix: str, insecure: bool, kind: str) -> list[Mirror]:
    """One mirror; two for an insecure one, whose TLS is tried unverified before plain HTTP."""
    url, path = _origin(location, "https")
    secure = Mirror(
        url,
        can_resolve=kind != "digest-only",  # a tag-only mirror gives the digest, nothing else
        can_pull=kind != "tag-only",
        verify=not insecure,
        prefix=prefix.partition("/")[2],
        replacement=path,
    )
    plain = replace(secure, url=url.replace("https://", "http://", 1), verify=True)
    return [secure, plain] if insecure else [secure]


def default_registries_conf(environ: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Return the files that podman would read: one main file, then the folders of drop-ins."""
    if named := environ.get("CONTAINERS_REGISTRIES_CONF"):
        return (Path(named),)
    own, system = home / ".config" / "containers", Path("/etc/containers")
    main = own if os.access(own / "registries.conf", os.R_OK) else system
    drop_ins = (folder / "registries.conf.d" for folder in (system, own))
    return (main / "registries.conf", *drop_ins)


def _conf_files(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        inside = [file for file in _listing(path) if file.suffix == ".conf"]
        for file in inside or [path]:
            if (content := _read(file)) is not None:
                yield file, content


# --- certs.d ---


def tls_files(host: str, roots: Sequence[Path] = CERTS_DIRS) -> TlsFiles:
    """Return what the folders `<root>/<host>/` hold: `*.crt`, and `*.cert` with its `*.key`.

    Raises InputError for a certificate without its key, or the other way round.
    """
    authorities: list[Path] = []
    pairs: list[tuple[Path, Path]] = []
    for folder in (root / name for root in roots for name in _names(host) if _is_file_name(name)):
        files = _listing(folder)
        authorities += [file for file in files if file.suffix == ".crt"]
        certificates = {file.stem: file for file in files if file.suffix == ".cert"}
        keys = {file.stem: file for file in files if file.suffix == ".key"}
        for stem in sorted(certificates.keys() ^ keys.keys()):
            raise InputError(f"{folder}: {stem}.cert and {stem}.key go together, one is missing")
        pairs += [(file, keys[stem]) for stem, file in certificates.items()]
    return TlsFiles(tuple(authorities), tuple(pairs))


# --- shared: hosts, files, TOML values ---


def _names(host: str) -> tuple[str, ...]:
    return HUB_HOSTS if host in HUB_HOSTS else (host,)


def _ns(host: str) -> str:
    return urlencode({"ns": _names(host)[0]})


def _origin(value: str, scheme: str) -> tuple[str, str]:
    """Split into (`scheme://host[:port]`, path without outer slashes); ("", "") if it is no URL."""
    text = value if "://" in value else f"{scheme}://{value}"
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return "", ""
    good = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
    if not good or parts.query or parts.fragment or not text.isprintable() or " " in text:
        return "", ""
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")


def _is_loopback(value: str) -> bool:
    try:
        name = urlsplit(f"//{value.partition('/')[0]}").hostname
        return name == "localhost" or ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _listing(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted; nothing if it is absent or not for this user."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str | None:
    """Return the file's text, None if it is absent or not for this user. Raises InputError."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise InputError(f"{path} is over {_MAX_BYTES} bytes")
        return content.decode()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        return None  # containerd's folder is often root's alone
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _toml(content: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _texts(table: Mapping[str, Any], name: str, path: Path) -> list[str]:
    value = table.get(name, [])
    values = [value] if isinstance(value, str) else value
    if not _is_texts(values):
        raise InputError(f"{path}: {name} is no string and no list of strings")
    return values


def _text(table: Mapping[str, Any], name: str, path: Path) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise InputError(f"{path}: {name} is not a string")
    return value


def _flag(table: Mapping[str, Any], name: str, path: Path) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{path}: {name} is not true or false")
    return value


def _tables(value: object, name: str, path: Path) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError(f"{path}: {name} is not an array of tables")
    return value
