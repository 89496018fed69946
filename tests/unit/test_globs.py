"""The patterns of --include, --exclude and ocimodel.yaml."""

from __future__ import annotations

import contextlib
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.globs import MAX_PATTERN, MAX_PATTERNS, compile_globs

MATCHES = [
    ("*.json", "config.json"),
    ("*.json", "a/b/config.json"),
    ("*.json", ".json"),
    ("config.json", "1_Pooling/config.json"),
    ("/config.json", "config.json"),
    ("onnx/*.onnx", "onnx/model.onnx"),
    ("/onnx/*.onnx", "onnx/model.onnx"),
    ("onnx/", "onnx/model.onnx"),
    ("onnx/", "a/onnx/b/model.onnx"),
    ("/onnx/", "onnx/b/c"),
    ("a/onnx/", "a/onnx/x"),
    ("checkpoint-*/", "checkpoint-12/optimizer.pt"),
    ("**", "a"),
    ("**", "a/b/c"),
    ("**/*.onnx", "model.onnx"),
    ("**/*.onnx", "a/b/model.onnx"),
    ("a/**/b", "a/b"),
    ("a/**/b", "a/x/y/b"),
    ("a/**", "a/x/y"),
    ("**/a/**/b/**/c", "x/a/a/b/y/b/z/c"),
    ("shard?.bin", "shard1.bin"),
    ("[a-c]x", "bx"),
    ("[!a]x", "bx"),
    ("[^a]x", "bx"),
    ("[]]x", "]x"),
    ("[a-]", "-"),
    (r"\*x", "*x"),
    (r"[\]]", "]"),
    (r"\!x", "!x"),
    ("a**b", "axxb"),
    ("*", "a/b"),
    ("modèle *.bin", "sous dossier/modèle 1.bin"),
    ("a+b(c).txt", "a+b(c).txt"),
]
MISSES = [
    ("*.json", "config.jsonl"),
    ("*.json", "x.json/y"),
    ("*.JSON", "config.json"),
    ("/config.json", "a/config.json"),
    ("onnx/*.onnx", "backup/onnx/model.onnx"),
    ("onnx/*.onnx", "onnx/a/model.onnx"),
    ("onnx/", "onnx"),
    ("onnx", "onnx/model.onnx"),
    ("/onnx/", "a/onnx/b"),
    ("a/**", "a"),
    ("a/**/b", "a/xb"),
    ("shard?.bin", "shard.bin"),
    ("shard?.bin", "shard12.bin"),
    ("[!a]x", "ax"),
    (r"\*x", "ax"),
    ("a**b", "a/b"),
    ("a.c", "abc"),
]
INVALID = [
    "", "/", "//", "a//b", "./a", "../a", "a/../b", "!a", "[a", "[]", "[!]", "[z-a]", "a\\", "[a\\",
    "a\nb", "x" * (MAX_PATTERN + 1), "[a/b]",
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "path"), MATCHES)
def test_matches(pattern: str, path: str) -> None:
    assert compile_globs([pattern])(path)


@pytest.mark.parametrize(("pattern", "path"), MISSES)
def test_does_not_match(pattern: str, path: str) -> None:
    assert not compile_globs([pattern])(path)


@pytest.mark.parametrize("pattern", INVALID)
def test_invalid_patterns_are_named(pattern: str) -> None:
    with pytest.raises(InputError) as caught:
        compile_globs(["ok", pattern])
    assert repr(pattern[:200]) in str(caught.value)


def test_no_pattern_matches_nothing_and_any_of_several_matches() -> None:
    assert not compile_globs([])("a")
    either = compile_globs(["*.py", "docs/"])
    assert either("x.py") and either("docs/x") and not either("x.c")


def test_the_number_of_patterns_is_bounded() -> None:
    with pytest.raises(InputError):
        compile_globs(["a"] * (MAX_PATTERNS + 1))


def test_hostile_patterns_take_no_time() -> None:
    started = time.perf_counter()
    assert not compile_globs(["*a" * 300 + "b"])("a" * 4000)
    assert not compile_globs(["**/a/" * 150 + "b"])("/".join("a" * 1000))
    assert time.perf_counter() - started < 5


names = st.text("ab.-", min_size=1, max_size=8).filter(lambda s: s not in (".", ".."))
simple = st.text("ab.-*?", min_size=1, max_size=8).filter(lambda s: s not in (".", "..", "**"))


@given(simple, names)
def test_a_part_matches_as_fnmatch_does(pattern: str, name: str) -> None:
    assert compile_globs([pattern])(name) == fnmatchcase(name, pattern)


@given(simple, st.lists(names, min_size=1, max_size=4))
def test_without_a_slash_only_the_last_part_counts(pattern: str, parts: list[str]) -> None:
    assert compile_globs([pattern])("/".join(parts)) == fnmatchcase(parts[-1], pattern)


@given(st.lists(simple, min_size=2, max_size=4), st.lists(names, min_size=1, max_size=4))
def test_with_a_slash_all_parts_count(patterns: list[str], parts: list[str]) -> None:
    expected = len(patterns) == len(parts) and all(map(fnmatchcase, parts, patterns))
    assert compile_globs(["/".join(patterns)])("/".join(parts)) == expected


def slow_match(patterns: list[str], parts: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        start = 1 if len(patterns) == 1 else 0
        return any(
            slow_match(patterns[1:], parts[n:]) if len(patterns) > 1 else n <= len(parts)
            for n in range(start, len(parts) + 1)
        )
    return (
        bool(parts) and fnmatchcase(parts[0], patterns[0]) and slow_match(patterns[1:], parts[1:])
    )


@given(
    st.lists(st.one_of(st.just("**"), simple), min_size=2, max_size=5),
    st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=6),
)
def test_double_stars_match_as_the_definition_says(patterns: list[str], parts: list[str]) -> None:
    # Consecutive ** are one.
    plain = [p for i, p in enumerate(patterns) if p != "**" or patterns[i - 1 : i] != ["**"]]
    assert compile_globs(["/".join(patterns)])("/".join(parts)) == slow_match(plain, parts)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_a_pattern_or_an_input_error(pattern: str, path: str) -> None:
    with contextlib.suppress(InputError):
        compile_globs([pattern])(path)
