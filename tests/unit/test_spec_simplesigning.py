"""The payload under `.sig` tags: byte for byte as cosign writes it; whatever else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.simplesigning import (
    MAX_PAYLOAD_BYTES,
    Payload,
    encode_payload,
    parse_payload,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "signing"
GOLDEN = (VECTORS / "cosign2.sig.layer0.json").read_bytes()
D = "sha256:" + "ab" * 32
KIND = "cosign container image signature"


def payload(**changes: Any) -> bytes:
    critical = {
        "identity": {"docker-reference": "host/repo"},
        "image": {"docker-manifest-digest": D},
        "type": KIND,
        **changes,
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def optional(value: object) -> bytes:
    return json.dumps({**json.loads(payload()), "optional": value}).encode()


def test_it_is_written_byte_for_byte_as_cosign_does() -> None:
    read = parse_payload(GOLDEN)
    assert read.reference == "127.0.0.1:5903/poc/vec2b73b"
    assert read.annotations == {"team": "ml"}
    assert encode_payload(read) == GOLDEN


def test_without_annotations_there_is_a_null() -> None:
    assert encode_payload(Payload(D, "h/r")).endswith(b'signature"},"optional":null}')


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@given(texts, st.dictionaries(texts, texts, max_size=3))
def test_what_is_written_is_read_again(reference: str, annotations: dict[str, str]) -> None:
    written = Payload(D, reference, annotations)
    assert parse_payload(encode_payload(written)) == written


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, {}), ({}, {}), ({"a": "b", "n": 1, "o": {}, "z": None}, {"a": "b"})],
)
def test_only_texts_are_annotations(value: object, expected: dict[str, str]) -> None:
    assert parse_payload(optional(value)).annotations == expected


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (payload(type="atomic container signature"), "has the type"),
        (payload(type=None), "has the type"),
        (payload(image={}), "no digest"),
        (payload(image=None), "no digest"),
        (payload(image={"docker-manifest-digest": D.upper()}), "no digest"),
        (payload(image={"docker-manifest-digest": D.replace("ab", "AB")}), "no digest"),
        (payload(image={"docker-manifest-digest": D, "x": 1}), "unknown field"),
        (payload(identity={"docker-reference": 1}), "must be a string"),
        (payload(identity={"docker-reference": "x", "y": 1}), "unknown field"),
        (payload(extra=1), "unknown field 'extra'"),
        (optional([]), "must be an object"),
        (optional("x"), "must be an object"),
        (b'{"critical":{},"optional":null,"more":1}', "unknown field 'more'"),
        (b'{"optional":null}', "has the type"),
        (b'{"critical":[]}', "must be an object"),
        (GOLDEN.replace(b'"optional"', b'"critical":{},"optional"'), "duplicate"),
        (GOLDEN + b" " * MAX_PAYLOAD_BYTES, "over the limit"),
        (b"", "not valid JSON"),
    ],
)
def test_anything_else_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_payload(raw)
