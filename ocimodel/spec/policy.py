"""The policy: whose signatures and attestations an artifact must have, by its repository.

The document arrives as what a YAML parser made of it; this module knows no YAML, and opens none of
the keys that the document names. Nothing is guessed: a key without a value is an error, since
`revoked:` and `forms:` would else silently mean their opposite.

Schema: schemas/policy.schema.json. The parser is stricter in what a schema cannot say: dates must
exist, names must be in the keyring, and no two scopes may have the same pattern.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeVar

from ocimodel.errors import UsageError
from ocimodel.spec import modelfile_values as values
from ocimodel.spec.modelfile import Fields, read_fields
from ocimodel.spec.modelfile_values import Where
from ocimodel.spec.reference import RegistryReference, parse_reference
from ocimodel.spec.version import version_order

VERSION: Final = 1
ANY: Final = "*"
FORMS: Final = ("bundle", "simplesigning", "dsse", "notation")
# what cosign's --type calls them; source: cosign, cmd/cosign/cli/options/predicate.go
PREDICATES: Final = {
    "custom": "https://cosign.sigstore.dev/attestation/v1",
    "cyclonedx": "https://cyclonedx.org/bom",
    "link": "https://in-toto.io/Link/v1",
    "openvex": "https://openvex.dev/ns",
    "slsaprovenance": "https://slsa.dev/provenance/v0.2",
    "slsaprovenance02": "https://slsa.dev/provenance/v0.2",
    "slsaprovenance1": "https://slsa.dev/provenance/v1",
    "spdx": "https://spdx.dev/Document",
    "spdxjson": "https://spdx.dev/Document",
    "vuln": "https://cosign.sigstore.dev/attestation/vuln/v1",
}

_KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+/-]{0,127}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Keyless:
    """An identity that `issuer` vouched for when a certificate was made out to it.

    `trusted_root`: the file that describes a Sigstore instance; empty: the public one.
    """

    identity: str
    issuer: str
    trusted_root: str = ""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One name of the keyring. Exactly one of `key`, `certificates`, `keyless` is there.

    `key`: a path, a PEM text or the URI of a KMS; `certificates`: a path or a PEM text.
    `identities`: attributes that a certificate's subject must have, one of them; ANY: whoever.
    `revoked`: why nothing by it counts any more.
    """

    key: str = ""
    certificates: str = ""
    identities: tuple[str, ...] = ()
    keyless: Keyless | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked: str = ""


@dataclass(frozen=True, slots=True)
class Requirement:
    """At least `at_least` different ones of `by`, names of the keyring, must have signed.

    `predicate`: the type of the attestation that they must have made; empty for a signature.
    """

    by: tuple[str, ...]
    at_least: int = 1
    predicate: str = ""


@dataclass(frozen=True, slots=True)
class Expect:
    """What must also hold. `version`, `min_version`: of the manifest; the others: of a signature.

    `annotations`: signed, in the signature or in the manifest. `tag`, `repository`: whether a
    signature must say that it was made for the name that was asked for.
    """

    version: str = ""
    min_version: str = ""
    tag: bool = False
    repository: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)


class Verdict(StrEnum):
    """What a scope says."""

    REQUIRE = "require"
    ACCEPT = "accept"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Scope:
    """`repositories`: patterns, as `repository_name` writes names. `forms`: empty for all."""

    repositories: tuple[str, ...]
    verdict: Verdict
    require: tuple[Requirement, ...] = ()
    forms: tuple[str, ...] = ()
    expect: Expect = field(default_factory=Expect)


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed document; `default` is for repositories that no scope names."""

    keyring: Mapping[str, KeyEntry] = field(default_factory=dict)
    scopes: tuple[Scope, ...] = ()
    default: Scope = field(default_factory=lambda: Scope((), Verdict.REJECT))
    timestamp_authorities: tuple[str, ...] = ()


def parse_policy(document: object, source: str) -> Policy:
    """The document as a value; `source` names its file in messages.

    Raises InputError naming file, key and what was expected. At most 1024 keys and scopes.
    """
    where = Where(source)
    found = _fields(document, _POLICY, where, required=("version",))
    found.pop("version")
    policy = Policy(**found)
    patterns: set[str] = set()
    for index, scope in enumerate(policy.scopes):
        here = where.key("scopes").item(index)
        for pattern in scope.repositories:
            if pattern in patterns:
                raise here.key("repositories").error(f"{pattern} has its rules already")
            patterns.add(pattern)
        for number, requirement in enumerate(scope.require):
            _known(requirement.by, policy.keyring, here.key("require").item(number).key("by"))
    return policy


def repository_name(text: str) -> str:
    """`host/repository` as scopes compare it; what is no such name, as it stands.

    Lower case, Docker Hub by one name, no tag, no :443: else whoever chooses how a name is written
    would choose the scope too.
    """
    try:
        found = parse_reference(text.lower())
    except UsageError:
        return text
    if not isinstance(found, RegistryReference):
        return text
    return f"{found.registry.removesuffix(':443')}/{found.repository}"


def predicate_type(text: str) -> str:
    """The URI of an attestation's type, from itself or from cosign's short name for it."""
    return _predicate(text, Where("predicate type"))


def _fields(
    value: object, known: Fields, where: Where, required: Sequence[str] = ()
) -> dict[str, Any]:
    found = values.mapping(value, where)
    for key, item in found.items():
        if item is None and key in known:
            raise where.key(key).error("has no value", hint="leave the key out instead")
    for key in required:
        if key not in found:
            raise where.error(f"{key} is missing")
    return read_fields(found, known, where)


def _known(names: Sequence[str], keyring: Mapping[str, KeyEntry], where: Where) -> None:
    for index, name in enumerate(names):
        if name not in keyring:
            close = difflib.get_close_matches(name[:100], keyring, n=1)
            hint = f"did you mean {close[0]}?" if close else "name it under keyring: first"
            raise where.item(index).error(f"{name[:100]!r} is not in the keyring", hint=hint)


def _version(value: object, where: Where) -> int:
    if value is not True and value == VERSION:
        return VERSION
    raise where.error(f"expected {VERSION}, the only version of this document")


def _default(value: object, where: Where) -> Scope:
    return Scope((), Verdict(values.one_of((Verdict.ACCEPT, Verdict.REJECT))(value, where)))


def _some(read: Callable[[object, Where], T]) -> Callable[[object, Where], tuple[T, ...]]:
    """A reader of lists of 1 to 1024 different values."""
    read_all = values.list_of(read)

    def read_some(value: object, where: Where) -> tuple[T, ...]:
        found = read_all(value, where)
        if not found:
            raise where.error("expected at least one value")
        for index, item in enumerate(found):
            if item in found[:index]:
                raise where.item(index).error("is there twice")
        return found

    return read_some


def _moment(value: object, where: Where) -> datetime:
    text = values.date_time(value, where)
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise where.error(f"{text[:100]!r} is no moment: {error}") from error


def _yes(value: object, where: Where) -> bool:
    if value is not True:
        raise where.error("expected true", hint="or leave the key out")
    return True


def _version_number(value: object, where: Where) -> str:
    text = values.line(value, where)
    if version_order(text) is None:
        raise where.error(f"expected dotted numbers, such as 2.0 or 2.1.0-rc1, got {text[:100]!r}")
    return text


def _predicate(value: object, where: Where) -> str:
    text = values.line(value, where)
    if text in PREDICATES:
        return PREDICATES[text]
    if ":" not in text:
        close = difflib.get_close_matches(text[:100], PREDICATES, n=1)
        names = f"or one of {', '.join(PREDICATES)}"
        raise where.error(
            f"expected an URI, got {text[:100]!r}",
            hint=f"did you mean {close[0]}?" if close else names,
        )
    return values.url(text, where)


def _pattern(value: object, where: Where) -> str:
    text = values.line(value, where)
    if text == ANY:
        return text
    stem = text.removesuffix("/*")
    # below a host alone there may be any depth, and Docker Hub has names of one part
    below = "/x/x" if stem != text else ""
    try:
        found = parse_reference((stem + below).lower())
    except UsageError as error:
        raise where.error(
            str(error), hint="host/repository, host/prefix/* or *, without a tag"
        ) from error
    if not isinstance(found, RegistryReference) or found.tag or found.digest:
        raise where.error(
            f"{text[:100]!r} is no repository", hint="host/repository, host/prefix/* or *"
        )
    return repository_name(stem + below).removesuffix(below) + ("/*" if below else "")


def _keyring(value: object, where: Where) -> dict[str, KeyEntry]:
    found = {}
    for name, item in values.mapping(value, where).items():
        if not _KEY_NAME.fullmatch(name):
            raise where.key(name).error("a name has up to 128 of A-Z a-z 0-9 . _ @ + / -")
        found[name] = _key_entry(item, where.key(name))
    return found


def _key_entry(value: object, where: Where) -> KeyEntry:
    entry = KeyEntry(**_fields(value, _KEY, where))
    if sum(map(bool, (entry.key, entry.certificates, entry.keyless))) != 1:
        raise where.error("expected one of key, certificates and keyless")
    if bool(entry.certificates) != bool(entry.identities):
        raise where.error(
            "certificates and identities go together",
            hint='identities: ["*"] for everybody whom the certificates vouch for',
        )
    if entry.not_before and entry.not_after and entry.not_before >= entry.not_after:
        raise where.error("notAfter must be later than notBefore")
    return entry


def _keyless(value: object, where: Where) -> Keyless:
    return Keyless(**_fields(value, _KEYLESS, where, required=("identity", "issuer")))


def _requirement(value: object, where: Where) -> Requirement:
    found = Requirement(**_fields(value, _REQUIREMENT, where, required=("by",)))
    if found.at_least > len(found.by):
        raise where.key("atLeast").error(f"{found.at_least} of {len(found.by)} can never be")
    return found


def _expect(value: object, where: Where) -> Expect:
    return Expect(**_fields(value, _EXPECT, where))


def _scope(value: object, where: Where) -> Scope:
    found = _fields(value, _SCOPE, where, required=("repositories",))
    stated = [verdict for verdict in Verdict if verdict in found]
    if len(stated) != 1:
        raise where.error("expected one of require, accept and reject")
    scope = Scope(
        found["repositories"],
        stated[0],
        found.get("require", ()),
        found.get("forms", ()),
        found.get("expect", Expect()),
    )
    if not scope.require and found.keys() & {"forms", "expect"}:
        raise where.error("forms and expect say more about require, which is missing")
    of_signatures = scope.expect.tag or scope.expect.repository or scope.expect.annotations
    if of_signatures and all(requirement.predicate for requirement in scope.require):
        raise where.key("expect").error(
            "tag, repository and annotations are asked of signatures, and none is required",
            hint="add to require: a line with by: and without predicate:",
        )
    return scope


_POLICY: Final[Fields] = {
    "version": ("version", _version),
    "default": ("default", _default),
    "keyring": ("keyring", _keyring),
    "timestampAuthorities": ("timestamp_authorities", _some(values.prose)),
    "scopes": ("scopes", values.list_of(_scope)),
}
_KEY: Final[Fields] = {
    "key": ("key", values.prose),
    "certificates": ("certificates", values.prose),
    "identities": ("identities", _some(values.line)),
    "keyless": ("keyless", _keyless),
    "notBefore": ("not_before", _moment),
    "notAfter": ("not_after", _moment),
    "revoked": ("revoked", values.line),
}
_KEYLESS: Final[Fields] = {
    "identity": ("identity", values.line),
    "issuer": ("issuer", values.line),
    "trustedRoot": ("trusted_root", values.line),
}
_REQUIREMENT: Final[Fields] = {
    "by": ("by", _some(values.line)),
    "atLeast": ("at_least", values.number(1, values.MAX_ITEMS, whole=True)),
    "predicate": ("predicate", _predicate),
}
_EXPECT: Final[Fields] = {
    "version": ("version", values.line),
    "minVersion": ("min_version", _version_number),
    "tag": ("tag", values.truth),
    "repository": ("repository", values.truth),
    "annotations": ("annotations", values.labels),
}
_SCOPE: Final[Fields] = {
    "repositories": ("repositories", _some(_pattern)),
    "require": ("require", _some(_requirement)),
    "accept": ("accept", _yes),
    "reject": ("reject", _yes),
    "forms": ("forms", _some(values.one_of(FORMS))),
    "expect": ("expect", _expect),
}
