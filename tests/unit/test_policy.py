"""The policy document: the parser, and its agreement with the schema."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.signing.evidence import Form
from ocimodel.spec.policy import (
    FORMS,
    PREDICATES,
    Expect,
    KeyEntry,
    Keyless,
    Policy,
    Requirement,
    Scope,
    Verdict,
    parse_policy,
    predicate_type,
    repository_name,
)
from ocimodel.spec.version import version_order

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "schemas" / "policy.schema.json").read_text("utf-8"))
SLSA = "https://slsa.dev/provenance/v1"

FULL: dict[str, Any] = {
    "version": 1,
    "default": "reject",
    "keyring": {
        "release": {
            "key": "release.pub",
            "notBefore": "2026-01-01T00:00:00Z",
            "notAfter": "2027-01-01",
            "revoked": "leaked in March",
        },
        "corp": {"certificates": "root.pem", "identities": ["C=US, O=example, CN=release"]},
        "ci": {"keyless": {"identity": "https://example.org/ci.yml", "issuer": "https://i.org"}},
        "hub": {"keyless": {"identity": "a@b", "issuer": "https://i", "trustedRoot": "root.json"}},
    },
    "timestampAuthorities": ["tsa.pem"],
    "scopes": [
        {
            "repositories": ["registry.example.com/team/model", "registry.example.com/prod/*", "*"],
            "require": [
                {"by": ["release", "corp"], "atLeast": 2},
                {"by": ["ci"], "predicate": "slsaprovenance1"},
            ],
            "forms": ["bundle", "notation"],
            "expect": {
                "version": "2.1",
                "minVersion": "2.0",
                "tag": True,
                "repository": True,
                "annotations": {"team": "ml", "empty": ""},
            },
        },
        {"repositories": ["registry.example.com/scratch/*"], "accept": True},
        {"repositories": ["registry.example.com/quarantine/*"], "reject": True},
    ],
}
SIGNED = {"repositories": ["*"], "require": [{"by": ["k"]}]}
ATTESTED = {"repositories": ["*"], "require": [{"by": ["k"], "predicate": SLSA}]}


def of(*scopes: object, **more: object) -> dict[str, Any]:
    """A document with one key, `k`."""
    return {"version": 1, "keyring": {"k": {"key": "k.pub"}}, "scopes": list(scopes), **more}


def of_key(**entry: object) -> dict[str, Any]:
    return {"version": 1, "keyring": {"k": entry}}


VALID: list[Any] = [
    {"version": 1},
    FULL,
    of(),
    of(SIGNED),
    of(ATTESTED),
    of(SIGNED, default="accept"),
    of_key(key="-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"),
    of_key(key="awskms://alias/x"),
    of_key(certificates="root.pem", identities=["*"]),
    of({**SIGNED, "expect": {}}),
    of({**ATTESTED, "expect": {"version": "1", "tag": False, "annotations": {}}}),
    of({**SIGNED, "repositories": ["localhost:5000/x"]}),
    of({**SIGNED, "repositories": ["example.org/*"]}),
    of({**SIGNED, "repositories": ["[::1]:5000/x/*"]}),
]
INVALID: list[tuple[Any, str]] = [
    (None, "p.yaml: expected a mapping, got nothing"),
    ([], "p.yaml: expected a mapping"),
    ({}, "p.yaml: version is missing"),
    ({"version": 2}, "p.yaml: version: expected 1"),
    ({"version": "1"}, "p.yaml: version: expected 1"),
    ({"version": True}, "p.yaml: version: expected 1"),
    ({"version": 1, "scope": []}, "p.yaml: scope: unknown key"),
    ({"version": 1, "default": "maybe"}, "p.yaml: default: expected one of accept, reject"),
    ({"version": 1, "default": None}, "p.yaml: default: has no value"),
    ({"version": 1, "keyring": []}, "p.yaml: keyring: expected a mapping"),
    ({"version": 1, "keyring": {"*": {"key": "k"}}}, "p.yaml: keyring.*: a name has"),
    ({"version": 1, "keyring": {"k": "k.pub"}}, "p.yaml: keyring.k: expected a mapping"),
    ({"version": 1, "keyring": {f"k{i}": {"key": "k"} for i in range(1025)}}, "p.yaml: keyring: "),
    ({"version": 1, "timestampAuthorities": []}, "p.yaml: timestampAuthorities: expected at least"),
    ({"version": 1, "scopes": [SIGNED] * 1025}, "p.yaml: scopes: expected at most 1024"),
    (of_key(), "p.yaml: keyring.k: expected one of key"),
    (of_key(key="k", keyless={"identity": "a", "issuer": "b"}), "p.yaml: keyring.k: expected one"),
    (of_key(key="k", certificates="c", identities=["*"]), "p.yaml: keyring.k: expected one of"),
    (of_key(key="k", identities=["*"]), "p.yaml: keyring.k: certificates and identities"),
    (of_key(certificates="c"), "p.yaml: keyring.k: certificates and identities"),
    (of_key(certificates="c", identities=[]), "p.yaml: keyring.k.identities: expected at least"),
    (of_key(key="k", revoked=None), "p.yaml: keyring.k.revoked: has no value"),
    (of_key(key="k", revoked=True), "p.yaml: keyring.k.revoked: expected text"),
    (of_key(key="k", revoked=""), "p.yaml: keyring.k.revoked: expected text"),
    (of_key(key="k", notafter="2026-01-01"), "p.yaml: keyring.k.notafter: unknown key"),
    (of_key(key="k", notAfter="soon"), "p.yaml: keyring.k.notAfter: expected an RFC 3339"),
    (of_key(keyless={"identity": "a"}), "p.yaml: keyring.k.keyless: issuer is missing"),
    (of_key(keyless={"issuer": "a"}), "p.yaml: keyring.k.keyless: identity is missing"),
    (of_key(keyless={"identity": "", "issuer": "a"}), "p.yaml: keyring.k.keyless.identity: "),
    (of({"require": [{"by": ["k"]}]}), "p.yaml: scopes[0]: repositories is missing"),
    (of({**SIGNED, "repositories": []}), "p.yaml: scopes[0].repositories: expected at least one"),
    (of({**SIGNED, "repositories": "*"}), "p.yaml: scopes[0].repositories: expected a list"),
    (of({**SIGNED, "repositories": ["model"]}), "p.yaml: scopes[0].repositories[0]: 'model' names"),
    (of({**SIGNED, "repositories": ["a.b/**"]}), "p.yaml: scopes[0].repositories[0]: '**' in"),
    (of({**SIGNED, "repositories": ["*/x"]}), "p.yaml: scopes[0].repositories[0]: "),
    (of({**SIGNED, "repositories": ["a.b/*/x"]}), "p.yaml: scopes[0].repositories[0]: "),
    (of({**SIGNED, "repositories": ["a.b/x*"]}), "p.yaml: scopes[0].repositories[0]: "),
    (of({**SIGNED, "repositories": ["/*"]}), "p.yaml: scopes[0].repositories[0]: "),
    (
        of({**SIGNED, "repositories": ["a.b/x:1"]}),
        "p.yaml: scopes[0].repositories[0]: 'a.b/x:1' is",
    ),
    (of({**SIGNED, "repositories": ["a.b/x:1/*"]}), "p.yaml: scopes[0].repositories[0]: "),
    (of({**SIGNED, "repositories": ["oci:x"]}), "p.yaml: scopes[0].repositories[0]: 'oci:x' is no"),
    (of({**SIGNED, "repositories": ["a.b/x", "a.b/x"]}), "p.yaml: scopes[0].repositories[1]: is"),
    (of({"repositories": ["*"]}), "p.yaml: scopes[0]: expected one of require, accept and reject"),
    (of({**SIGNED, "accept": True}), "p.yaml: scopes[0]: expected one of require, accept and"),
    (
        of({"repositories": ["*"], "accept": True, "reject": True}),
        "p.yaml: scopes[0]: expected one",
    ),
    (of({"repositories": ["*"], "accept": False}), "p.yaml: scopes[0].accept: expected true"),
    (of({"repositories": ["*"], "reject": "yes"}), "p.yaml: scopes[0].reject: expected true"),
    (of({"repositories": ["*"], "accept": True, "forms": ["bundle"]}), "p.yaml: scopes[0]: forms"),
    (of({"repositories": ["*"], "accept": True, "expect": {}}), "p.yaml: scopes[0]: forms and"),
    (of({**SIGNED, "require": []}), "p.yaml: scopes[0].require: expected at least one"),
    (of({**SIGNED, "require": [{}]}), "p.yaml: scopes[0].require[0]: by is missing"),
    (of({**SIGNED, "require": [{"by": []}]}), "p.yaml: scopes[0].require[0].by: expected at least"),
    (of({**SIGNED, "require": [{"by": ["k", "k"]}]}), "p.yaml: scopes[0].require[0].by[1]: is"),
    (
        of({**SIGNED, "require": [{"by": ["k"], "atLeast": 0}]}),
        "p.yaml: scopes[0].require[0].atLeast: expected a whole number from 1",
    ),
    (
        of({**SIGNED, "require": [{"by": ["k"], "atLeast": 1.5}]}),
        "p.yaml: scopes[0].require[0].atLeast: expected a whole number",
    ),
    (
        of({**SIGNED, "require": [{"by": ["k"], "predicate": "slsa"}]}),
        "p.yaml: scopes[0].require[0].predicate: expected an URI, got 'slsa'",
    ),
    (
        of({**SIGNED, "require": [{"by": ["k"], "predicate": "a: b"}]}),
        "p.yaml: scopes[0].require[0].predicate: expected an URL",
    ),
    (of({**SIGNED, "forms": []}), "p.yaml: scopes[0].forms: expected at least one"),
    (of({**SIGNED, "forms": ["jws"]}), "p.yaml: scopes[0].forms[0]: expected one of bundle"),
    (of({**SIGNED, "forms": None}), "p.yaml: scopes[0].forms: has no value"),
    (of({**SIGNED, "expect": {"version": 2.1}}), "p.yaml: scopes[0].expect.version: expected text"),
    (of({**SIGNED, "expect": {"minVersion": "new"}}), "p.yaml: scopes[0].expect.minVersion: "),
    (of({**SIGNED, "expect": {"tag": "yes"}}), "p.yaml: scopes[0].expect.tag: expected true or"),
    (of({**SIGNED, "expect": {"annotations": {"a": 1}}}), "p.yaml: scopes[0].expect.annotations.a"),
    (of({**SIGNED, "expect": {"annotation": {}}}), "p.yaml: scopes[0].expect.annotation: unknown"),
    (of({**ATTESTED, "expect": {"tag": True}}), "p.yaml: scopes[0].expect: tag, repository and"),
    (of({**ATTESTED, "expect": {"repository": True}}), "p.yaml: scopes[0].expect: tag, repos"),
    (of({**ATTESTED, "expect": {"annotations": {"a": "b"}}}), "p.yaml: scopes[0].expect: tag,"),
]
# what a schema cannot say
UNSAID: list[tuple[Any, str]] = [
    (of({**SIGNED, "require": [{"by": ["j"]}]}), "p.yaml: scopes[0].require[0].by[0]: 'j' is not"),
    (of({**SIGNED, "require": [{"by": ["k"], "atLeast": 2}]}), "p.yaml: scopes[0].require[0].atLe"),
    (of(SIGNED, SIGNED), "p.yaml: scopes[1].repositories: * has its rules already"),
    (
        of(
            {**SIGNED, "repositories": ["docker.io/library/x"]},
            {**SIGNED, "repositories": ["index.docker.io/x"]},
        ),
        "p.yaml: scopes[1].repositories: docker.io/library/x has its rules already",
    ),
    (
        of({**SIGNED, "repositories": ["a.b/x/*", "A.B:443/x/*"]}),
        "p.yaml: scopes[0].repositories[1]: is there twice",
    ),
    (of_key(key="k", notAfter="2026-02-30"), "p.yaml: keyring.k.notAfter: expected an RFC 3339"),
    (
        of_key(key="k", notAfter="2026-01-01T23:59:60Z"),
        "p.yaml: keyring.k.notAfter: '2026-01-01T23:59:60Z' is no moment",
    ),
    (
        of_key(key="k", notBefore="2026-01-02", notAfter="2026-01-01"),
        "p.yaml: keyring.k: notAfter must be later",
    ),
]


def is_valid(document: object) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(document))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("document", VALID, ids=lambda d: str(d)[:60])
def test_parser_and_schema_accept(document: object) -> None:
    assert isinstance(parse_policy(document, "p.yaml"), Policy)
    assert is_valid(document)


@pytest.mark.parametrize(("document", "message"), INVALID, ids=lambda d: str(d)[:60])
def test_parser_and_schema_refuse(document: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_policy(document, "p.yaml")
    assert str(caught.value).startswith(message)
    assert not is_valid(document)


@pytest.mark.parametrize(("document", "message"), UNSAID, ids=lambda d: str(d)[:60])
def test_the_parser_refuses_more_than_the_schema(document: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_policy(document, "p.yaml")
    assert str(caught.value).startswith(message)
    assert is_valid(document)


def test_everything_arrives_at_its_place() -> None:
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    assert parse_policy(FULL, "p.yaml") == Policy(
        keyring={
            "release": KeyEntry(
                key="release.pub", not_before=start, not_after=end, revoked="leaked in March"
            ),
            "corp": KeyEntry(certificates="root.pem", identities=("C=US, O=example, CN=release",)),
            "ci": KeyEntry(keyless=Keyless("https://example.org/ci.yml", "https://i.org")),
            "hub": KeyEntry(keyless=Keyless("a@b", "https://i", "root.json")),
        },
        timestamp_authorities=("tsa.pem",),
        scopes=(
            Scope(
                ("registry.example.com/team/model", "registry.example.com/prod/*", "*"),
                Verdict.REQUIRE,
                (Requirement(("release", "corp"), 2), Requirement(("ci",), 1, SLSA)),
                ("bundle", "notation"),
                Expect("2.1", "2.0", True, True, {"team": "ml", "empty": ""}),
            ),
            Scope(("registry.example.com/scratch/*",), Verdict.ACCEPT),
            Scope(("registry.example.com/quarantine/*",), Verdict.REJECT),
        ),
    )


def test_the_default_is_to_reject() -> None:
    assert parse_policy({"version": 1}, "p").default == Scope((), Verdict.REJECT)
    accepting = parse_policy({"version": 1, "default": "accept"}, "p")
    assert accepting.default == Scope((), Verdict.ACCEPT)


def test_moments_are_taken_as_yaml_reads_them() -> None:
    east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    read = parse_policy(of_key(key="k", notBefore=east), "p").keyring["k"].not_before
    assert read == datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(InputError, match="time zone"):
        parse_policy(of_key(key="k", notBefore=east.replace(tzinfo=None)), "p")


@pytest.mark.parametrize(
    ("document", "hint"),
    [
        ({"version": 1, "scope": []}, "did you mean scopes?"),
        (of_key(key="k", not_after="2026-01-01"), "did you mean notAfter?"),
        (of({**SIGNED, "require": [{"by": ["kk"]}]}), "did you mean k?"),
        (of({**SIGNED, "require": [{"by": ["zz"]}]}), "name it under keyring: first"),
        (
            of({**SIGNED, "require": [{"by": ["k"], "predicate": "slsaprovenanc1"}]}),
            "did you mean slsaprovenance1?",
        ),
    ],
    ids=str,
)
def test_what_was_meant_is_named(document: object, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_policy(document, "p")
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("registry.example.com/team/model", "registry.example.com/team/model"),
        ("Registry.Example.com:443/team/model", "registry.example.com/team/model"),
        ("registry.example.com/team/model:1.0", "registry.example.com/team/model"),
        ("localhost:5000/x", "localhost:5000/x"),
        ("index.docker.io/library/x", "docker.io/library/x"),
        ("docker.io/x", "docker.io/library/x"),
        ("oci:/Srv/X", "oci:/Srv/X"),
        ("ubuntu", "ubuntu"),
        ("", ""),
    ],
)
def test_one_repository_has_one_name(written: str, name: str) -> None:
    assert repository_name(written) == name


@pytest.mark.parametrize(
    ("written", "pattern"),
    [
        ("Registry.example.com:443/Team/*", "registry.example.com/team/*"),
        ("index.docker.io/*", "docker.io/*"),
        ("docker.io/team/*", "docker.io/team/*"),
        ("docker.io/x", "docker.io/library/x"),
        ("localhost:5000/*", "localhost:5000/*"),
    ],
)
def test_patterns_are_named_like_repositories(written: str, pattern: str) -> None:
    policy = parse_policy(of({**SIGNED, "repositories": [written]}), "p")
    assert policy.scopes[0].repositories == (pattern,)


def test_short_names_and_forms_are_those_of_schema_and_code() -> None:
    definitions = SCHEMA["$defs"]
    predicate = definitions["requirement"]["properties"]["predicate"]
    assert set(predicate["anyOf"][0]["enum"]) == set(PREDICATES)
    assert set(definitions["scope"]["properties"]["forms"]["items"]["enum"]) == set(FORMS)
    assert set(FORMS) == set(Form)


def test_predicate_types() -> None:
    assert predicate_type("slsaprovenance1") == predicate_type(SLSA) == SLSA
    with pytest.raises(InputError, match="predicate type: expected an URI"):
        predicate_type("provenance")


def test_versions_in_order() -> None:
    ascending = [
        *("0.9", "1", "1.9.9", "2.0-1", "2.0a1", "2.0-alpha.2", "2.0-alpha.10", "2.0rc1"),
        *("2.0.rc2", "2.0rc10", "2.0", "2.0.1", "2.10", "10"),
    ]
    orders = [version_order(text) for text in ascending]
    assert None not in orders
    for (before, low), (after, high) in pairwise(zip(ascending, orders, strict=True)):
        assert low < high, f"{before} < {after}"  # type: ignore[operator]


def test_versions_that_are_equal_and_that_are_none() -> None:
    assert version_order("v2.0") == version_order("2.0.0") == version_order("2+cu121")
    for text in (
        "",
        "latest",
        "2.",
        ".2",
        "2..0",
        "2 0",
        "٢.0",
        "2.0\n",
        "1" * 19,
        "1.2.3.4.5.6.7.8.9",
    ):
        assert version_order(text) is None


def test_the_documented_policies_are_policies() -> None:
    text = (ROOT / "docs" / "trust.md").read_text("utf-8")
    blocks = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    assert len(blocks) >= 2
    for block in blocks:
        parse_policy(yaml.safe_load(block), "docs/trust.md")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, by the keys and indexes that lead there."""
    below = value.items() if isinstance(value, dict) else []
    below = enumerate(value) if isinstance(value, list) else below
    return [path, *(place for key, item in below for place in places(item, (*path, key)))]


PLACES = places(FULL)[1:]
WORDS = st.sampled_from(
    ["*", "", "release", "a.b/c", "a.b/*", "1.0", True, 1, "2026-01-01", {}, []]
)


@given(st.lists(st.tuples(st.sampled_from(PLACES), json_values | WORDS), min_size=1, max_size=3))
def test_any_document_is_a_policy_or_an_input_error(changes: list[tuple[Any, Any]]) -> None:
    document: Any = copy.deepcopy(FULL)
    for (*path, last), value in changes:
        inner = document
        try:
            for step in path:
                inner = inner[step]
            inner[last] = value
        except (TypeError, KeyError, IndexError):
            continue  # an earlier change took it away
    try:
        parse_policy(document, "p")
    except InputError:
        return
    assert is_valid(document)


@given(json_values)
def test_any_value_is_an_input_error(document: object) -> None:
    with pytest.raises(InputError):
        parse_policy(document, "p")
