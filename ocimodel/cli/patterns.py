"""Many names that differ in numbers only, as few patterns: layer.0, layer.1, … as layer.{0..5}."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# a number by itself, not the digits of a word such as fc1 or a hash
_NUMBER = re.compile(r"(?<![0-9A-Za-z])[0-9]{1,9}(?![0-9A-Za-z])")
_MAX_RUNS = 8

# at each place of a pattern, the numbers that stand there
_Box = tuple[frozenset[str], ...]


def collapse(names: Iterable[str]) -> list[str]:
    """Patterns that stand for exactly these names, in the order of their first ones."""
    rows: dict[tuple[str, ...], list[_Box]] = {}
    for name in names:
        box = tuple(frozenset({number}) for number in _NUMBER.findall(name))
        rows.setdefault(tuple(_NUMBER.split(name)), []).append(box)
    return [
        _written(words, box) for words, boxes in rows.items() for box in _merged(boxes, len(words))
    ]


def _merged(boxes: list[_Box], n_words: int) -> list[_Box]:
    """Boxes that hold the same points: such as differ in one place only become one."""
    for place in reversed(range(n_words - 1)):
        alike: dict[tuple[_Box, _Box], set[str]] = {}
        for box in boxes:
            alike.setdefault((box[:place], box[place + 1 :]), set()).update(box[place])
        boxes = [(*before, frozenset(all_), *after) for (before, after), all_ in alike.items()]
    return boxes


def _written(words: Sequence[str], box: _Box) -> str:
    return words[0] + "".join(
        _numbers(sorted(numbers, key=lambda n: (int(n), n))) + word
        for numbers, word in zip(box, words[1:], strict=True)
    )


def _numbers(numbers: Sequence[str]) -> str:
    """`3`, or `{0..5}`, or `{0,1,4..7}`."""
    if len(numbers) == 1:
        return numbers[0]
    runs = [[numbers[0]]]
    for number in numbers[1:]:
        before = runs[-1][-1]
        if number == str(int(before) + 1).zfill(len(before)):
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [part for run in runs for part in ([f"{run[0]}..{run[-1]}"] if len(run) > 2 else run)]
    more = f",… {len(numbers)} in all" if len(parts) > _MAX_RUNS else ""
    return "{" + ",".join(parts[:_MAX_RUNS]) + more + "}"
