"""A difference for people: names that differ in numbers as patterns, values cut where they part."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.cli.difference import MAX_ROWS, text
from ocimodel.cli.patterns import collapse
from ocimodel.ops.diff import Compared, DiffResult
from ocimodel.spec.compare import (
    Difference,
    NamedTensor,
    Side,
    Status,
    TensorDifference,
    ValueDifference,
)
from ocimodel.spec.contents import Share
from ocimodel.spec.tensor import Tensor

# patterns

COLLAPSED = [
    ([], []),
    (["a"], ["a"]),
    (["a.0.b"], ["a.0.b"]),
    (["a.0.b", "a.1.b"], ["a.{0,1}.b"]),
    (["a.2", "a.0", "a.1"], ["a.{0..2}"]),
    (["a.0", "a.1", "a.2", "a.5", "a.7", "a.8"], ["a.{0..2,5,7,8}"]),
    (["a.8.x", "a.9.x", "a.10.x"], ["a.{8..10}.x"]),
    # words with digits are words
    (["fc1.w", "fc2.w"], ["fc1.w", "fc2.w"]),
    (["x_1_y", "x_2_y"], ["x_{1,2}_y"]),
    (["w-00001-of-00003", "w-00002-of-00003", "w-00003-of-00003"], ["w-{00001..00003}-of-00003"]),
    (["1", "01"], ["{01,1}"]),
    # two numbers, all combinations
    ([f"l.{i}.e.{j}.w" for i, j in product(range(3), range(4))], ["l.{0..2}.e.{0..3}.w"]),
    # and not all
    (["l.0.e.0", "l.0.e.1", "l.1.e.0"], ["l.0.e.{0,1}", "l.1.e.0"]),
    (["b.1", "a.0", "b.2"], ["b.{1,2}", "a.0"]),
    ([f"a.{2 * i}" for i in range(9)], ["a.{0,2,4,6,8,10,12,14,… 9 in all}"]),
    (["9" * 5000, "8" * 5000], ["9" * 5000, "8" * 5000]),
]


@pytest.mark.parametrize(("names", "patterns"), COLLAPSED)
def test_collapse(names: list[str], patterns: list[str]) -> None:
    assert collapse(names) == patterns


def expanded(pattern: str) -> set[str]:
    """What a shell makes of the braces."""
    match = re.search(r"\{([^}]*)\}", pattern)
    if not match:
        return {pattern}
    numbers: list[str] = []
    for part in match[1].split(","):
        first, _, last = part.partition("..")
        numbers += [str(n) for n in range(int(first), int(last or first) + 1)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return {before + number + rest for number in numbers for rest in expanded(after)}


@given(st.sets(st.tuples(st.sampled_from("ab"), *[st.integers(0, 4)] * 3), max_size=60))
def test_patterns_stand_for_exactly_the_names(points: set[tuple[str, int, int, int]]) -> None:
    names = {f"{word}.{i}.x.{j}-{k}" for word, i, j, k in points}
    patterns = collapse(sorted(names))
    found = [name for pattern in patterns for name in expanded(pattern)]
    assert len(found) == len(set(found))
    assert set(found) == names


# text


def result(
    tensors: list[TensorDifference] | None = None, values: list[ValueDifference] | None = None
) -> DiffResult:
    side = Compared("oci:x:v1", "", "sha256:" + "a" * 64, True, Side([]))
    found = Difference((), tuple(tensors or ()), tuple(values or ()), (), Share(0, 0, 0), True)
    return DiffResult(side, side, found)


def named(name: str, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> NamedTensor:
    return NamedTensor("f", "raw", Tensor(name, dtype, shape, 0, 8))


def test_tensors_that_changed_alike_are_one_row_each() -> None:
    rows = [
        TensorDifference("l.0", Status.CHANGED, named("l.0"), named("l.0")),
        TensorDifference("l.1", Status.CHANGED, named("l.1"), named("l.1")),
        TensorDifference("l.2", Status.CHANGED, named("l.2"), named("l.2", "F16")),
        TensorDifference("l.3", Status.REMOVED, named("l.3", shape=()), None),
        TensorDifference("l.4", Status.UNKNOWN, named("l.4"), named("l.4")),
        TensorDifference("l.5", Status.SAME, named("l.5"), named("l.5")),
    ]
    assert list(text(result(rows))) == [
        "files: none; tensors: 3 changed, 1 removed, 1 unknown, 1 same",
        "",
        "l.2      changed  F32 [2] → F16 [2]",
        "l.{0,1}  changed  F32 [2]",
        "l.3      removed  F32 []",
        "l.4      unknown  F32 [2]",
    ]


def test_values_are_shown_from_where_they_part() -> None:
    long = "x" * 100
    values = [
        ValueDifference("d", "short", Status.CHANGED, 1, "1"),
        ValueDifference("d", "umlaut", Status.CHANGED, None, "ß"),
        ValueDifference("d", "end", Status.CHANGED, long + "a", long + "b"),
        ValueDifference("d", "longer", Status.CHANGED, "x", long),
        ValueDifference("e", "new", Status.ADDED, None, long),
    ]
    assert list(text(result(values=values)))[1:] == [
        "",
        "d",
        '  short: 1 → "1"',
        '  umlaut: null → "ß"',
        f'  end: …{"x" * 12}a" → …{"x" * 12}b"',
        f'  longer: "x" → "{"x" * 59}…',
        "",
        "e",
        f'  new: absent → "{"x" * 59}…',
    ]


def test_a_list_is_cut_off_with_a_count() -> None:
    values = [ValueDifference("d", str(i), Status.CHANGED, 1, 2) for i in range(MAX_ROWS + 7)]
    lines = list(text(result(values=values)))
    assert len(lines) == 3 + MAX_ROWS + 1
    assert lines[-1] == "  … and 7 more: --json has them all"
    assert not any("more" in line for line in text(result(values=values[:MAX_ROWS])))
