"""doctor: what works between here and a registry, step by step, and what to do about the rest."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ocimodel.errors import NotFoundError, OcimodelError
from ocimodel.events import Observer, ignore
from ocimodel.ops.access import client_options, credentials_of, find, open_store
from ocimodel.registry.repository import Repository
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.manifest import Document, Manifest
from ocimodel.spec.reference import RegistryReference, parse_reference
from ocimodel.store.layout import Layout
from ocimodel.store.memo import memo_path
from ocimodel.store.protocol import Store


@dataclass(frozen=True, slots=True)
class Check:
    """`exit_code`: 0 when all is well or merely slower, else that of the error behind it."""

    name: str
    detail: str
    exit_code: int = 0
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    reference: str
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """That of the first check that failed."""
        return next((c.exit_code for c in self.checks if c.exit_code), 0)


def doctor(
    reference: str,
    *,
    write: bool = False,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> Diagnosis:
    """Try each step that a pull (and with `write` a push) takes; never raises for what fails."""
    # a bare host: what can be said of a registry without a repository
    only_host = "/" not in reference and not reference.startswith("oci:")
    name = parse_reference(f"{reference}/any/name" if only_host else reference)
    options = client_options(client)
    checks: list[Check] = []
    if isinstance(name, RegistryReference):
        checks += _registry_checks(name, options, write, observer, only_host=only_host)
    else:
        checks.append(_try("layout", lambda: _layout(name.path)))
    checks += _local_checks(options)
    return Diagnosis(reference if only_host else str(name), tuple(checks))


def _try(name: str, step: Callable[[], str]) -> Check:
    try:
        return Check(name, step())
    except OcimodelError as error:
        hint = "" if "ocimodel doctor" in error.hint else error.hint
        return Check(name, str(error), error.exit_code, hint)


def _registry_checks(
    name: RegistryReference,
    options: ClientOptions,
    write: bool,
    observer: Observer,
    *,
    only_host: bool,
) -> Iterator[Check]:
    store = open_store(name, options, writable=write, observer=observer)
    assert isinstance(store, Repository)
    reached = _try("registry", lambda: _ping(store))
    yield reached
    if reached.exit_code:
        return
    yield _try("credentials", lambda: _credentials(name, options))
    if only_host:
        return
    found: list[Document] = []
    yield _try("artifact", lambda: _artifact(store, name, found))
    if found:
        yield _try("ranges", lambda: _ranges(store, found[0]))
        yield _try("referrers", lambda: _referrers(store, found[0]))
    if write:
        yield _try("push", lambda: _push(store))


def _ping(store: Repository) -> str:
    answer = store.client.request("GET", "/v2/", accept=range(200, 500), what=f"{store.host}/v2/")
    answer.close()
    transport = "plain HTTP" if store.client.base.startswith("http:") else "TLS"
    return f"{store.host} answers over {transport}"


def _credentials(name: RegistryReference, options: ClientOptions) -> str:
    credential = credentials_of(options).lookup(name.host, name.repository)
    if credential is None:
        return "none stored for it: anonymous access"
    return f"found for {credential.username or 'a token'}"


def _artifact(store: Store, name: RegistryReference, found: list[Document]) -> str:
    if not name.tag and not name.digest:
        return f"{len(store.tags())} tags in {name.name}"
    document = find(store, name)
    found.append(document)
    size = sum(blob.size for blob in document.blobs())
    return f"{document.digest}, {len(document.blobs())} blobs, {size} bytes"


def _ranges(store: Store, document: Document) -> str:
    blobs = document.layers if isinstance(document, Manifest) else ()
    blob = max(blobs, key=lambda b: b.size, default=None)
    if blob is None or blob.size < 2:
        return "nothing to try it on"
    with store.open(blob, 1, 1) as reader:
        served = (reader.start, reader.length) == (1, 1)
    if served:
        return "served: big blobs come in parallel, and resume"
    return "not served: each blob comes in one stream, and starts over when it breaks"


def _referrers(store: Store, document: Document) -> str:
    return f"{len(store.referrers(document.digest))} refer to it"


def _push(store: Repository) -> str:
    store.check_push()
    return "uploads are accepted"


def _layout(path: str) -> str:
    layout = Layout(Path(path))
    missing = [
        blob.digest
        for root in layout.roots()
        for blob in layout.manifest(root.digest).blobs()
        if not layout.has(blob)
    ]
    if missing:
        raise NotFoundError(
            f"{len(missing)} blobs are missing, the first is {missing[0]}",
            hint="push or copy the artifact into the layout again",
        )
    return f"{len(layout.tags())} tags, all blobs are there"


def _local_checks(options: ClientOptions) -> Iterator[Check]:
    memo = memo_path(options.environ)
    folder = next((p for p in memo.parents if p.exists()), Path("/"))
    if os.access(folder, os.W_OK):
        yield Check("memo", f"digests of unchanged files are kept in {memo}")
    else:
        yield Check(
            "memo",
            f"{folder} is not writable: files are hashed each time",
            hint="set OCIMODEL_STATE_DIR to a folder that is",
        )
    yield _temporary_space()


def _temporary_space() -> Check:
    try:
        folder = tempfile.gettempdir()
    except OSError:
        return Check(
            "temporary space",
            "none: cat cannot hold files over 32 MB",
            hint="mount an emptyDir at /tmp, or set TMPDIR",
        )
    return Check("temporary space", f"{shutil.disk_usage(folder).free} bytes free in {folder}")
