"""ocimodel.yaml: the parser, and its agreement with the schema."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.modelfile import Capabilities, Modelfile, parse_modelfile

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "schemas" / "modelfile.schema.json").read_text("utf-8")
)

FULL: dict[str, Any] = {
    "name": "minilm",
    "version": "1.0",
    "family": "bert",
    "title": "MiniLM",
    "description": "Sentence\nembeddings",
    "authors": ["A <a@example.org>"],
    "vendor": "Example",
    "licenses": ["Apache-2.0"],
    "architecture": "transformer",
    "format": "safetensors",
    "precision": "float32",
    "quantization": "gptq",
    "paramSize": "22.7M",
    "docURL": "https://example.org/doc",
    "sourceURL": "git+ssh://git@example.org/x",
    "datasetsURL": ["hf://datasets/x"],
    "revision": "abc",
    "createdAt": "2024-05-21T09:30:00Z",
    "capabilities": {
        "inputTypes": ["text", "image"],
        "outputTypes": ["embedding"],
        "knowledgeCutoff": "2023-12-01",
        "reasoning": False,
        "toolUsage": True,
        "reward": False,
        "languages": ["en", "de"],
    },
    "include": ["*.json", "onnx/"],
    "exclude": ["checkpoint-*/"],
    "kinds": {"notes.bin": "doc", "*.bin": "weight"},
    "labels": {"team": "search", "empty": ""},
    "lineage": {"anything": [1, {"at": "all"}]},
    "settings": {"concurrency": 4, "retries": 0, "timeout": 2.5},
}
VALID: list[Any] = [
    None,
    {},
    FULL,
    *({key: value} for key, value in FULL.items()),
    *({key: None} for key in FULL),
    {"capabilities": {}},
    {"capabilities": {"reasoning": None}},
    {"createdAt": "2024-02-29T23:59:60.123+05:30"},
    {"paramSize": "512"},
    {"authors": []},
    {"labels": {}},
    {"settings": {}},
    {"settings": {"timeout": None}},
    {"name": "größe"},
]
INVALID: list[tuple[Any, str]] = [
    ([], "a.yaml: expected a mapping"),
    ("text", "a.yaml: expected a mapping, got text"),
    ({"nam": "x"}, "a.yaml: nam: unknown key"),
    ({"name": ""}, "a.yaml: name: "),
    ({"name": 1}, "a.yaml: name: expected text, got a number"),
    ({"name": True}, "a.yaml: name: expected text, got true or false"),
    ({"name": "a\x00b"}, "a.yaml: name: control"),
    ({"name": "a\nb"}, "a.yaml: name: control"),
    ({"name": "x" * 4097}, "a.yaml: name: expected at most 4096"),
    ({"description": "x" * 65537}, "a.yaml: description: expected at most"),
    ({"version": 1.0}, "a.yaml: version: expected text, got a number"),
    ({"licenses": "MIT"}, "a.yaml: licenses: expected a list, got text"),
    ({"licenses": ["MIT", 3]}, "a.yaml: licenses[1]: expected text"),
    ({"authors": [None]}, "a.yaml: authors[0]: expected text, got nothing"),
    ({"authors": ["x"] * 1025}, "a.yaml: authors: expected at most 1024"),
    ({"paramSize": "8x7B"}, "a.yaml: paramSize: expected a count"),
    ({"docURL": "example.org"}, "a.yaml: docURL: expected an URL"),
    ({"datasetsURL": ["https://x y"]}, "a.yaml: datasetsURL[0]: expected an URL"),
    ({"createdAt": "yesterday"}, "a.yaml: createdAt: expected an RFC 3339"),
    ({"createdAt": "2024-05-21T09:30:00"}, "a.yaml: createdAt: expected an RFC 3339"),
    ({"capabilities": []}, "a.yaml: capabilities: expected a mapping"),
    ({"capabilities": {"inputTypes": ["text", "smell"]}}, "a.yaml: capabilities.inputTypes[1]: "),
    (
        {"capabilities": {"outputTypes": "text"}},
        "a.yaml: capabilities.outputTypes: expected a list",
    ),
    ({"capabilities": {"reasoning": "yes"}}, "a.yaml: capabilities.reasoning: expected true"),
    ({"capabilities": {"languages": ["eng"]}}, "a.yaml: capabilities.languages[0]: "),
    ({"capabilities": {"smell": 1}}, "a.yaml: capabilities.smell: unknown key"),
    ({"include": "*.json"}, "a.yaml: include: expected a list"),
    ({"include": ["!x"]}, "a.yaml: include[0]: pattern '!x' is invalid"),
    ({"exclude": ["x" * 1025]}, "a.yaml: exclude[0]: "),
    ({"kinds": {"*.bin": "weights"}}, "a.yaml: kinds.*.bin: expected one of weight, "),
    ({"kinds": {"": "doc"}}, "a.yaml: kinds."),
    ({"kinds": {"*.bin": None}}, "a.yaml: kinds.*.bin: expected one of"),
    ({"labels": {"a": 1}}, "a.yaml: labels.a: expected text"),
    ({"labels": {"": "x"}}, "a.yaml: labels"),
    ({"labels": ["a"]}, "a.yaml: labels: expected a mapping"),
    ({"lineage": "git"}, "a.yaml: lineage: expected a mapping"),
    ({"settings": [1]}, "a.yaml: settings: expected a mapping"),
    ({"settings": {"mirror": ["example.org"]}}, "a.yaml: settings.mirror: unknown key"),
    ({"settings": {"concurrency": 65}}, "a.yaml: settings.concurrency: expected a whole number"),
    ({"settings": {"concurrency": 1.5}}, "a.yaml: settings.concurrency: expected a whole number"),
    ({"settings": {"retries": True}}, "a.yaml: settings.retries: expected a whole number"),
    ({"settings": {"timeout": "60"}}, "a.yaml: settings.timeout: expected a number"),
    ({"settings": {"timeout": 0.5}}, "a.yaml: settings.timeout: expected a number from 1"),
]


def is_valid(document: object) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(document))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("document", VALID, ids=lambda d: str(d)[:40])
def test_parser_and_schema_accept(document: object) -> None:
    assert isinstance(parse_modelfile(document, "a.yaml"), Modelfile)
    assert is_valid(document)


@pytest.mark.parametrize(("document", "message"), INVALID, ids=lambda d: str(d)[:40])
def test_parser_and_schema_refuse(document: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_modelfile(document, "a.yaml")
    assert str(caught.value).startswith(message)
    assert not is_valid(document)


def test_every_key_arrives_at_its_place() -> None:
    found = parse_modelfile(FULL, "a.yaml")
    assert (found.name, found.version, found.param_size) == ("minilm", "1.0", "22.7M")
    assert found.authors == ("A <a@example.org>",)
    assert found.capabilities == Capabilities(
        ("text", "image"), ("embedding",), "2023-12-01T00:00:00Z", False, True, False, ("en", "de")
    )
    assert found.kinds == (("notes.bin", "doc"), ("*.bin", "weight"))
    assert found.labels == {"team": "search", "empty": ""}
    assert found.lineage == FULL["lineage"]
    assert found.settings == FULL["settings"]
    assert found.raw == FULL
    assert set(SCHEMA["properties"]) == set(FULL)


@pytest.mark.parametrize(
    ("key", "meant"), [("created_at", "createdAt"), ("licence", "licenses"), ("nmae", "name")]
)
def test_the_closest_key_is_named(key: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_modelfile({key: "x"}, "a.yaml")
    assert caught.value.hint == f"did you mean {meant}?"


def test_what_yaml_makes_of_dates_and_numbers() -> None:
    moment = datetime(2024, 5, 21, 9, 30, tzinfo=UTC)
    assert parse_modelfile({"createdAt": moment}, "f").created_at == "2024-05-21T09:30:00Z"
    east = moment.astimezone(timezone(timedelta(hours=2)))
    assert parse_modelfile({"createdAt": east}, "f").created_at == "2024-05-21T11:30:00+02:00"
    day = parse_modelfile({"createdAt": date(2024, 5, 21)}, "f")
    assert day.created_at == "2024-05-21T00:00:00Z"
    with pytest.raises(InputError, match="time zone"):
        parse_modelfile({"createdAt": moment.replace(tzinfo=None)}, "f")
    with pytest.raises(InputError) as caught:
        parse_modelfile({"version": 1.0}, "f")
    assert "quotes" in caught.value.hint


@pytest.mark.parametrize(
    "number", [float("nan"), float("inf"), 10**400], ids=["nan", "inf", "huge"]
)
def test_a_setting_must_be_a_number_in_its_range(number: float) -> None:
    with pytest.raises(InputError, match=r"settings\.timeout: expected a number from 1"):
        parse_modelfile({"settings": {"timeout": number}}, "f")


@pytest.mark.parametrize(
    "text", ["2023-02-29T00:00:00Z", "2024-13-01", "2024-01-01T00:00:00+24:00"]
)
def test_dates_must_exist(text: str) -> None:
    with pytest.raises(InputError):
        parse_modelfile({"createdAt": text}, "f")


def test_an_endless_lineage_is_refused() -> None:
    bomb: Any = ["x"] * 9
    for _ in range(9):
        bomb = [bomb] * 9
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    for hostile in ({"a": bomb}, cycle, {"a": float("nan")}, {"a": object()}, {"a": {1: 2}}):
        with pytest.raises(InputError):
            parse_modelfile({"lineage": hostile}, "f")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*FULL, "other"]), json_values) | json_values)
def test_any_document_is_a_value_or_an_input_error(document: object) -> None:
    try:
        parse_modelfile(document, "f")
    except InputError:
        return
    assert is_valid(document)
