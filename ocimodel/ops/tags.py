"""tag and rm: names for what is there, and their end."""

from __future__ import annotations

from dataclasses import dataclass

from ocimodel.events import Observer, ignore
from ocimodel.ops.access import client_options, find, guard_tag, open_store, parse_full, tagged
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.reference import check_tag, parse_reference
from ocimodel.store.layout import REF_NAME, Layout


@dataclass(frozen=True, slots=True)
class TagResult:
    """`previous`: the digest that the tag had before, or empty."""

    reference: str
    pinned: str
    digest: str
    previous: str = ""


def tag(
    reference: str,
    name: str,
    *,
    force_tag: bool = False,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> TagResult:
    """Let the tag `name` of the same repository point to an artifact that is there.

    ConflictError if it points to another one, unless `force_tag`.
    """
    origin = parse_reference(reference)
    check_tag(name)
    store = open_store(origin, client_options(client), writable=True, observer=observer)
    root = find(store, origin)
    current = tagged(store, name)
    guard_tag(store, name, current, root.digest, force=force_tag)
    if current is None or current.digest != root.digest:
        store.tag(name, root.descriptor)
    return TagResult(
        reference=f"{origin.name}:{name}",
        pinned=str(origin.at(root.digest)),
        digest=root.digest,
        previous=current.digest if current else "",
    )


@dataclass(frozen=True, slots=True)
class RemoveResult:
    """`deleted`: the manifest is gone too, not only the tag."""

    reference: str
    digest: str
    deleted: bool


def rm(
    reference: str, *, client: ClientOptions | None = None, observer: Observer = ignore
) -> RemoveResult:
    """Remove a tag, or with a digest the artifact and all its tags.

    In a layout an artifact goes with its last tag, and so do the blobs that nothing else needs; a
    registry collects its garbage by its own rules. NotFoundError if it is not there, RegistryError
    (405) where the registry does not allow deletes.
    """
    name = parse_full(reference)
    store = open_store(name, client_options(client), writable=True, observer=observer)
    digest = store.resolve(name.digest or name.tag).digest
    deleted = bool(name.digest) or _is_last_tag(store, name.tag, digest)
    if deleted:
        store.delete(digest)
    else:
        store.untag(name.tag)
    return RemoveResult(str(name), digest, deleted)


def _is_last_tag(store: object, tag: str, digest: str) -> bool:
    if not isinstance(store, Layout):
        return False
    tags = {r.annotations.get(REF_NAME) for r in store.roots() if r.digest == digest}
    return tags == {tag}
