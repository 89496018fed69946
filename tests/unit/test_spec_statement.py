"""in-toto statements: byte for byte as cosign writes them; whatever else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.bundle import parse_bundle
from ocimodel.spec.dsse import parse_envelope
from ocimodel.spec.statement import (
    MAX_SUBJECTS,
    STATEMENT,
    Statement,
    StatementSubject,
    encode_statement,
    parse_statement,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "signing"
HEX = "ab" * 32
SUBJECT = {"digest": {"sha256": HEX}}


def statement(**changes: Any) -> bytes:
    document = {
        "_type": STATEMENT,
        "subject": [SUBJECT],
        "predicateType": "https://example.com/p",
        "predicate": {},
        **changes,
    }
    return json.dumps(document).encode()


def golden(name: str) -> bytes:
    raw = (VECTORS / name).read_bytes()
    if name.startswith("cosign3.bundle"):
        return parse_bundle(raw).envelope.payload
    return parse_envelope(raw).payload


def test_a_signature_is_written_byte_for_byte_as_cosign_does() -> None:
    raw = golden("cosign3.bundle0.json")
    read = parse_statement(raw)
    assert read.subjects[0].annotations == {"team": "ml"}
    assert encode_statement(read.subjects, read.predicate_type, read.predicate) == raw


@pytest.mark.parametrize("name", ["cosign3.bundle1.json", "cosign2.att.layer0.json"])
def test_attestations_of_cosign_are_read(name: str) -> None:
    # both are of v0.1
    read = parse_statement(golden(name))
    assert read.predicate_type == "https://slsa.dev/provenance/v1"
    assert read.predicate["buildDefinition"]["buildType"] == "https://x/y"
    assert read.subjects[0].name.startswith("127.0.0.1:5903/poc/")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
subjects = st.builds(
    StatementSubject,
    st.binary(min_size=32, max_size=32).map(lambda b: "sha256:" + b.hex()),
    texts,
    st.dictionaries(texts, texts, max_size=3),
)
predicates = st.dictionaries(texts, st.none() | texts | st.integers() | st.lists(texts))


@given(st.lists(subjects, min_size=1, max_size=3), texts.filter(bool), predicates)
def test_what_is_written_is_read_again(
    about: list[StatementSubject], kind: str, predicate: dict[str, Any]
) -> None:
    raw = encode_statement(about, kind, predicate)
    assert parse_statement(raw) == Statement(tuple(about), kind, predicate)


def test_what_is_not_asked_for_is_passed_over() -> None:
    subject = {
        "uri": "x",
        "digest": {"sha256": HEX, "sha512": "cd", "gitCommit": "ef"},
        "annotations": {"kept": "yes", "n": 1, "o": {}},
    }
    read = parse_statement(statement(subject=[subject], extra=[1]))
    assert read.subjects == (StatementSubject(f"sha256:{HEX}", "", {"kept": "yes"}),)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"_type": "https://in-toto.io/Statement/v2"}, "type"),
        ({"_type": None}, "type"),
        ({"_type": 1}, "must be a string"),
        ({"subject": []}, "0 subjects"),
        ({"subject": None}, "0 subjects"),
        ({"subject": SUBJECT}, "array"),
        ({"subject": [SUBJECT] * (MAX_SUBJECTS + 1)}, "65 subjects"),
        ({"subject": [SUBJECT, "x"]}, r"subject\[1\] must be an object"),
        ({"subject": [{}]}, "no sha256"),
        ({"subject": [{"digest": {"sha512": HEX * 2}}]}, "no sha256"),
        ({"subject": [{"digest": {"sha256": HEX.upper()}}]}, "no digest"),
        ({"subject": [{"digest": {"sha256": HEX[:-1]}}]}, "no digest"),
        ({"subject": [{"digest": {"sha256": HEX + "\n"}}]}, "no digest"),
        ({"subject": [{"digest": {"sha256": f"sha256:{HEX}"}}]}, "no digest"),
        ({"subject": [{"digest": {"sha256": [HEX]}}]}, "must be a string"),
        ({"subject": [{"digest": f"sha256:{HEX}"}]}, "must be an object"),
        ({"subject": [{**SUBJECT, "name": 1}]}, "must be a string"),
        ({"subject": [{**SUBJECT, "annotations": []}]}, "must be an object"),
        ({"predicateType": ""}, "no predicateType"),
        ({"predicateType": None}, "no predicateType"),
        ({"predicateType": []}, "must be a string"),
        ({"predicate": None}, "predicate must be an object"),
        ({"predicate": []}, "predicate must be an object"),
        ({"predicate": "{}"}, "predicate must be an object"),
    ],
)
def test_anything_else_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_statement(statement(**changes))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        statement()[:-1],
        statement() + b"{}",
        statement().replace(b'"predicate": {}', b'"predicate": {}, "predicate": {"a": 1}'),
        statement().replace(b'"predicate": {}', b'"predicate": {"x": NaN}'),
        statement().replace(b'"predicate": {}', b'"predicate": ' + b'{"a":' * 100_000),
        statement().decode().encode("utf-16"),
    ],
)
def test_what_is_no_plain_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InputError):
        parse_statement(raw)


@pytest.mark.parametrize("value", [float("nan"), b"bytes", "\ud800", {1, 2}])
def test_what_no_json_can_be_made_of_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        encode_statement([StatementSubject(f"sha256:{HEX}")], "x", {"value": value})
