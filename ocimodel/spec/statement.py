"""in-toto statements: which artifacts a predicate is about.

Source: in-toto attestation framework, spec/v1/statement.md and resource_descriptor.md; v0.1 is read
too, since cosign still writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.digest import parse_digest

STATEMENT: Final = "https://in-toto.io/Statement/v1"
TYPES: Final = (STATEMENT, "https://in-toto.io/Statement/v0.1")
MAX_SUBJECTS: Final = 64


@dataclass(frozen=True, slots=True)
class StatementSubject:
    """`digest`: sha256:hex. `annotations`: those whose value is a string."""

    digest: str
    name: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        # the order in which cosign writes them
        document: dict[str, Any] = {"name": self.name} if self.name else {}
        document["digest"] = {"sha256": self.digest.removeprefix("sha256:")}
        if self.annotations:
            document["annotations"] = dict(sorted(self.annotations.items()))
        return document


@dataclass(frozen=True, slots=True)
class Statement:
    subjects: tuple[StatementSubject, ...]
    predicate_type: str
    predicate: Mapping[str, Any] = field(default_factory=dict)


def encode_statement(
    subjects: Sequence[StatementSubject], predicate_type: str, predicate: Mapping[str, Any]
) -> bytes:
    """Compact JSON of a v1 statement; for a signature byte for byte what cosign 3 writes.

    InputError for what no JSON can be made of: NaN, bytes, half surrogate pairs.
    """
    document = {
        "_type": STATEMENT,
        "subject": [subject.to_json() for subject in subjects],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    try:
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the statement cannot be written as JSON: {error}") from error


def parse_statement(raw: bytes) -> Statement:
    """A statement about 1 to MAX_SUBJECTS sha256 digests; the caller has bounded its size.

    Further fields and digests by other algorithms are passed over, as in-toto asks for: they are
    under the signature. Raises InputError for anything else, and for a predicate that is no object.
    """
    document = canonical.decode(raw, "statement")
    kind = canonical.text(document, "_type", "statement")
    if kind not in TYPES:
        raise InputError(f"statement has the type {kind[:100]!r}, not {STATEMENT}")
    subjects = canonical.sequence(document, "subject", "statement")
    if not 1 <= len(subjects) <= MAX_SUBJECTS:
        raise InputError(f"statement has {len(subjects)} subjects, not 1 to {MAX_SUBJECTS}")
    predicate_type = canonical.text(document, "predicateType", "statement")
    if not predicate_type:
        raise InputError("statement has no predicateType")
    if not isinstance(document.get("predicate"), dict):
        raise InputError("statement: predicate must be an object")
    parsed = tuple(_subject(item, f"subject[{i}]") for i, item in enumerate(subjects))
    return Statement(parsed, predicate_type, document["predicate"])


def _subject(document: object, what: str) -> StatementSubject:
    if not isinstance(document, dict):
        raise InputError(f"{what} must be an object")
    digests = canonical.strings(document, "digest", what)
    if "sha256" not in digests:
        raise InputError(f"{what} has no sha256 digest")
    annotations = canonical.mapping(document, "annotations", what)
    return StatementSubject(
        parse_digest(f"sha256:{digests['sha256']}"),
        canonical.text(document, "name", what),
        {k: v for k, v in annotations.items() if isinstance(v, str)},
    )
