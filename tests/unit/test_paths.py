"""File names that are safe to create, and sets of them that can stand side by side."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.paths import check_path, check_tree

GOOD = [
    "config.json",
    "a/b/c.bin",
    ".gitattributes",
    "..hidden",
    "...",
    "a..b/c",
    "with space/and  two",
    "ünïcode/模型.bin",
    "emoji 👩‍🔬.txt",  # a joiner is no control character
    "ab:c",
    "*?[x]",
    "-rf",
    "x" * 255,
    "/".join(["d" * 100] * 40),
    ".ocimodel/index.json",
    "sub/.ocimodel.partial/x",
]
BAD = [
    "",
    "/",
    "/etc/passwd",
    "//x",
    "..",
    ".",
    "../x",
    "a/../b",
    "a/..",
    "./a",
    "a/./b",
    "a//b",
    "a/",
    "C:/x",
    "c:x",
    "a\\b",
    "..\\x",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "a\x1b[31m",
    "a\x85b",
    "a\ud800b",
    "a\udcffb",
    "x" * 256,
    "ü" * 128,
    "/".join(["d" * 255] * 17),
    ".ocimodel.partial/abc",
    ".ocimodel.partial",
    ".OciModel.Partial/abc",
]


@pytest.mark.parametrize("path", GOOD)
def test_safe_names(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize("path", BAD, ids=range(len(BAD)))
def test_unsafe_names(path: str) -> None:
    with pytest.raises(InputError):
        check_path(path)


@given(st.text() | st.lists(st.sampled_from("/.a\\C:\n\0é")).map("".join))
def test_check_gives_the_path_or_the_declared_error(path: str) -> None:
    try:
        assert check_path(path) == path
    except InputError as error:
        str(error).encode()  # it can be shown
        return
    parts = path.split("/")
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(parts)
    assert "\0" not in path


@pytest.mark.parametrize(
    ("files", "folders"),
    [
        ([], []),
        (["a", "b", "c/d", "c/e"], []),
        (["a.b", "a/b", "a-b"], []),
        (["a/b"], ["a", "a/c", "a/c"]),
        ([], ["x", "x/y", "x"]),
        (["straße", "strase"], []),
    ],
)
def test_trees_that_fit(files: list[str], folders: list[str]) -> None:
    check_tree(files, folders)


NFC = unicodedata.normalize("NFC", "café")
NFD = unicodedata.normalize("NFD", "café")


@pytest.mark.parametrize(
    ("files", "folders"),
    [
        (["a", "a"], []),
        (["a/b", "a/b"], []),
        (["README", "readme"], []),
        (["d/A", "d/a"], []),
        (["D/x", "d/y"], []),
        ([NFC, NFD], []),
        ([f"{NFC}/x", f"{NFD}/y"], []),
        ([NFC.upper(), NFD], []),
        (["straße", "STRASSE"], []),
        (["a", "a/b"], []),
        (["a/b", "a"], []),
        (["A", "a/b"], []),
        (["a/b/c", "a/b"], []),
        (["a"], ["a"]),
        (["A"], ["a/b"]),
        (["a/x"], ["A"]),
        ([], ["a", "A"]),
        (["ok", "../no"], []),
        (["ok"], ["/no"]),
    ],
    ids=str,
)
def test_trees_that_do_not(files: list[str], folders: list[str]) -> None:
    with pytest.raises(InputError):
        check_tree(files, folders)


names = st.text(
    st.characters(codec="utf-8", categories=["L", "N", "M", "P", "S"], exclude_characters="/\\."),
    min_size=1,
    max_size=6,
).filter(lambda n: len(n) < 2 or n[1] != ":")


@given(names)
def test_every_composition_of_a_name_is_the_same_name(name: str) -> None:
    composed = unicodedata.normalize("NFC", name)
    decomposed = unicodedata.normalize("NFD", name)
    for twin in {composed, decomposed, name.casefold()} - {name}:
        with pytest.raises(InputError):
            check_tree([name, twin])


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=30))
def test_names_that_differ_stand_side_by_side_in_any_order(numbers: list[int]) -> None:
    paths = [f"d{n % 3}/f{n}" for n in numbers]
    check_tree(paths)
    check_tree(reversed(paths), ["d0", "d1", "d2"])
    for path in paths[:1]:
        with pytest.raises(InputError, match="twice"):
            check_tree([*paths, path])
