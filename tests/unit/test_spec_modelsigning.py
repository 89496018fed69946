"""The statement of a model.sig: what we write, what we read, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.bundle import parse_bundle
from ocimodel.spec.digest import sha256
from ocimodel.spec.modelsigning import (
    IGNORED,
    PREDICATE_TYPE,
    ModelStatement,
    parse_model_statement,
)

GOLDEN = Path(__file__).parents[1] / "vectors" / "signing" / "omsmodel"
A, B = sha256(b"a"), sha256(b"b")
FILES = {"a/b": A, "a.txt": B, "Z": A}
Edit = Callable[[dict[str, Any]], None]


def test_golden_statement() -> None:
    raw = parse_bundle((GOLDEN / "model.sig").read_bytes()).envelope.payload
    found = parse_model_statement(raw)
    assert found.name == "omsmodel"
    names = ["Z.txt", "config.json", "sub/x.txt", "weights.bin"]
    assert found.files == {name: sha256((GOLDEN / name).read_bytes()) for name in names}
    assert sorted(found.ignored) == sorted(IGNORED)
    assert not found.follows_links


def test_written_as_model_signing_does() -> None:
    """The same files in the same order, under the same root, as in the golden file."""
    raw = parse_bundle((GOLDEN / "model.sig").read_bytes()).envelope.payload
    theirs = json.loads(raw)
    ours = json.loads(parse_model_statement(raw).encode())
    for document in (ours, theirs):
        document["predicate"]["serialization"]["ignore_paths"].sort()
    assert ours == theirs


def test_sorted_by_component() -> None:
    document = json.loads(ModelStatement("m", FILES).encode())
    names = [r["name"] for r in document["predicate"]["resources"]]
    assert names == ["Z", "a/b", "a.txt"]


@pytest.mark.parametrize("follows_links", [False, True])
def test_round_trip(follows_links: bool) -> None:
    statement = ModelStatement("m", FILES, (*IGNORED, "notes"), follows_links)
    assert parse_model_statement(statement.encode()) == statement


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("model.sig", True),
        (".git/config", True),
        (".github/workflows/x.yml", True),
        (".gitignore", True),
        ("sub/model.sig", False),
        ("sub/.gitignore", False),
        (".gitmodules", False),
        ("model.sig2", False),
        ("Model.sig", False),
    ],
)
def test_ignores(path: str, ignored: bool) -> None:
    assert ModelStatement("m", FILES).ignores(path) is ignored


def resources(*named: tuple[str, str]) -> Edit:
    """Replace the resources, under a root digest that fits."""

    def edit(document: dict[str, Any]) -> None:
        document["predicate"]["resources"] = [
            {"name": name, "algorithm": "sha256", "digest": digest[7:]} for name, digest in named
        ]
        joined = b"".join(bytes.fromhex(digest[7:]) for _, digest in named)
        document["subject"][0]["digest"]["sha256"] = sha256(joined)[7:]

    return edit


def resource(**values: object) -> Edit:
    return lambda document: document["predicate"]["resources"][0].update(values)


def serialization(**values: object) -> Edit:
    return lambda document: document["predicate"]["serialization"].update(values)


HOSTILE: dict[str, tuple[Edit, str]] = {
    "twice": (resources(("x", A), ("x", B)), "twice"),
    "twice with a dot": (resources(("x", A), ("./x", B)), "component '.'"),
    "dot": (resources(("./x", A)), "component '.'"),
    "double slash": (resources(("a//x", A)), "component ''"),
    "absolute": (resources(("/etc/passwd", A)), "absolute"),
    "drive": (resources(("C:/x", A)), "absolute"),
    "above": (resources(("../x", A)), "component '..'"),
    "above, inside": (resources(("a/../x", A)), "component '..'"),
    "backslash": (resources(("a\\x", A)), "backslash"),
    "empty name": (resources(("", A)), "empty"),
    "control character": (resources(("a\nb", A)), "control"),
    "case": (resources(("readme", A), ("README", B)), "collides"),
    "case of a folder": (resources(("a/x", A), ("A/y", B)), "collides"),
    "composition": (resources(("é", A), ("e\u0301", B)), "collides"),
    "file and folder": (resources(("a", A), ("a/b", B)), "both a file and the directory"),
    "ignored file": (resources(("x", A), (".gitignore", B)), "says to ignore"),
    "ignored folder": (resources(("x", A), (".git/hooks/post-checkout", B)), "says to ignore"),
    "its own signature": (resources(("x", A), ("model.sig", B)), "says to ignore"),
    "no files": (resources(), "lists 0 files"),
    "wrong root": (resource(digest=sha256(b"c")[7:]), "root digest"),
    "upper-case digest": (resource(digest=A[7:].upper()), "no digest"),
    "short digest": (resource(digest=A[7:-2]), "no digest"),
    "blake2 file": (resource(algorithm="blake2"), "'blake2', not sha256"),
    "no algorithm": (resource(algorithm=None), "not sha256"),
    "name is a number": (resource(name=1), "must be a string"),
    "blake3": (serialization(hash_type="blake3"), "only sha256 is read here"),
    "shards": (serialization(method="shards", shard_size=1000), "only files is read here"),
    "links maybe": (serialization(allow_symlinks="no"), "true or false"),
    "ignores all": (serialization(ignore_paths=["."]), "component '.'"),
    "ignores above": (serialization(ignore_paths=["../x"]), "component '..'"),
    "ignores numbers": (serialization(ignore_paths=[1]), "must be strings"),
    "ignores much": (serialization(ignore_paths=["x"] * 1001), "over the limit"),
    "no serialization": (lambda d: d["predicate"].pop("serialization"), "by method ''"),
    "two subjects": (lambda d: d["subject"].append(d["subject"][0]), "2 subjects"),
    "version 0.2": (
        lambda d: d.update(predicateType="https://model_signing/Digests/v0.1"),
        PREDICATE_TYPE,
    ),
    "something else": (
        lambda d: d.update(predicateType="https://sigstore.dev/cosign/sign/v1"),
        PREDICATE_TYPE,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str) -> None:
    edit, reason = HOSTILE[name]
    document = json.loads(ModelStatement("m", FILES).encode())
    edit(document)
    with pytest.raises(InputError, match=".*" + reason.replace("(", r"\(")):
        parse_model_statement(json.dumps(document).encode())


def test_further_fields_are_passed_over() -> None:
    document = json.loads(ModelStatement("m", FILES).encode())
    document["predicate"]["card"] = {"x": 1}
    assert parse_model_statement(json.dumps(document).encode()).files == FILES


def test_root_leaves_names_out() -> None:
    """Why the root digest may identify nothing: renamed files keep it."""
    one = json.loads(ModelStatement("m", {"model.py": A, "safe.py": B}).encode())
    other = json.loads(ModelStatement("m", {"a.py": A, "model.py": B}).encode())
    assert one["subject"] == other["subject"]


names = st.sampled_from(["x", "a/b", "./x", "..", "/x", "A", "a", "model.sig", "\\", ""])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(A[7:]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from(["serialization", "resources"]), value=values, raw=st.binary())
def test_value_or_declared_error(key: str, value: object, raw: bytes) -> None:
    document = json.loads(ModelStatement("m", FILES).encode())
    document["predicate"][key] = value
    for candidate in (raw, json.dumps(document).encode()):
        try:
            found = parse_model_statement(candidate)
        except InputError:
            continue
        assert parse_model_statement(found.encode()) == found
