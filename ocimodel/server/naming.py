"""Which repository and tag an entry of a layout's index.json stands for, and the other way round.

A layout is one collection with names in `org.opencontainers.image.ref.name`; a registry has many
repositories. All of them share the layout's blobs and manifests, and share the names like this:

    ref.name           repository      tag     written by
    v1                 the default     v1      pack oci:PATH:v1, push HOST/<default>:v1
    team/a:v1          team/a          v1      push HOST/team/a:v1
    anything else      -               -       other tools; reachable by digest

The default repository is called like the layout's directory. A tag without a repository of its own
is seen in every repository that has no tag of that name, so that a packed layout can be pulled
under any name; it can be moved and deleted in the default repository only. A client that finds
there what it was going to push may leave it at that, and then the tag goes on to be a shared one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# distribution-spec v1.1.1, "Pulling manifests"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
MAX_NAME = 255
# `sha256:<hex>` as a ref.name would be a tag that looks like a digest
_RESERVED = ("sha256", "sha512")
FALLBACK_DEFAULT = "model"


def is_name(text: str) -> bool:
    """Whether `text` may name a repository."""
    return len(text) <= MAX_NAME and text not in _RESERVED and bool(_NAME.fullmatch(text))


def is_tag(text: str) -> bool:
    return bool(_TAG.fullmatch(text))


def default_name(directory: str) -> str:
    """The default repository of a layout whose directory is called `directory`."""
    lowered = directory.lower()
    return lowered if is_name(lowered) else FALLBACK_DEFAULT


@dataclass(frozen=True, slots=True)
class Naming:
    """`default`: the repository whose tags are stored without a repository name."""

    default: str

    def ref_name(self, repository: str, tag: str) -> str:
        """How a tag of this repository is stored."""
        return tag if repository == self.default else f"{repository}:{tag}"

    def split(self, ref_name: str) -> tuple[str, str] | None:
        """(repository, tag) of a stored name; None for a name that is no tag here."""
        repository, colon, tag = ref_name.rpartition(":")
        if not is_tag(tag):
            return None
        if not colon:
            return self.default, tag
        return (repository, tag) if is_name(repository) else None

    def visible(self, repository: str, ref_names: Iterable[str]) -> dict[str, str]:
        """Tag → ref.name of all that can be pulled from this repository."""
        own: dict[str, str] = {}
        plain: dict[str, str] = {}
        for ref_name in ref_names:
            found = self.split(ref_name)
            if found and ":" not in ref_name:
                plain[found[1]] = ref_name
            elif found and found[0] == repository:
                own[found[1]] = ref_name
        # `<default>:v1`, written elsewhere, does not shadow `v1`
        return own | plain if repository == self.default else plain | own

    def owns(self, repository: str, ref_name: str) -> bool:
        """Whether the name is a tag of this very repository, and not only seen from it."""
        found = self.split(ref_name)
        return found is not None and found[0] == repository

    def repositories(self, ref_names: Iterable[str]) -> list[str]:
        """All repositories with tags of their own, sorted."""
        return sorted({found[0] for n in ref_names if (found := self.split(n))})


def lexical(tag: str) -> tuple[str, str]:
    """Sort key of tags. Source: distribution-spec v1.1.1, "Listing Tags": case-insensitive."""
    return tag.lower(), tag


def page(names: Iterable[str], n: int | None, last: str) -> tuple[list[str], bool]:
    """At most `n` of the names, in lexical order, after `last`; and whether more would follow."""
    rest = sorted((t for t in names if not last or lexical(t) > lexical(last)), key=lexical)
    if n is None:
        return rest, False
    return rest[:n], 0 < n < len(rest)
