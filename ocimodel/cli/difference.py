"""A difference between two models: whole for machines, short for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from ocimodel.cli.patterns import collapse
from ocimodel.cli.text import human, table

if TYPE_CHECKING:
    from ocimodel.ops.diff import Compared, DiffResult
    from ocimodel.spec.compare import (
        Difference,
        FileDifference,
        NamedTensor,
        TensorDifference,
        ValueDifference,
    )
    from ocimodel.spec.modelpack import ModelFile

# of files, of tensors and of each document's values
MAX_ROWS = 50
# of a value on a terminal
_MAX_WIDTH = 60
# of a long value that is equal before the first difference
_CONTEXT = 12
_ORDER = ("changed", "added", "removed", "unknown", "same")

_T = TypeVar("_T")


# for machines


def document(found: DiffResult) -> dict[str, Any]:
    """The result by schemas/cli/diff.v1.schema.json."""
    difference = found.difference
    return {
        "a": _compared(found.a),
        "b": _compared(found.b),
        "differs": difference.differs,
        "tensorsCompared": difference.has_tensors,
        "totalBytes": difference.share.total_bytes,
        "sharedBytes": difference.share.shared_bytes,
        "fetchBytes": difference.share.fetch_bytes,
        "files": [
            {"path": f.path, "status": f.status, **_sides(_file, f.a, f.b)}
            if not f.path.endswith("/")
            else {"path": f.path, "status": f.status}
            for f in difference.files
        ],
        "tensors": [
            {"name": t.name, "status": t.status, **_sides(_tensor, t.a, t.b)}
            for t in difference.tensors
        ],
        "configuration": [_value(v) for v in difference.configuration],
        "metadata": [_value(v) for v in difference.metadata],
    }


def _compared(side: Compared) -> dict[str, Any]:
    return {
        "reference": side.reference,
        "digest": side.digest,
        **({"pinned": side.pinned} if side.pinned else {}),
        "indexed": side.indexed,
    }


def _sides(show: Callable[[_T], Any], a: _T | None, b: _T | None) -> dict[str, Any]:
    return {name: show(side) for name, side in (("a", a), ("b", b)) if side is not None}


def _file(file: ModelFile) -> dict[str, Any]:
    return {
        "size": file.size,
        "kind": file.kind,
        "executable": bool(file.mode & 0o111),
        "layers": [layer.digest for layer in file.layers],
    }


def _tensor(named: NamedTensor) -> dict[str, Any]:
    tensor = named.tensor
    return {
        "file": named.path,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "length": tensor.length,
    }


def _value(value: ValueDifference) -> dict[str, Any]:
    shown = {"document": value.document, "key": value.key, "status": value.status}
    if value.status != "added":
        shown["a"] = value.a
    if value.status != "removed":
        shown["b"] = value.b
    return shown


# for people


def text(found: DiffResult) -> Iterator[str]:
    """The sums, then what differs in files, tensors and values; lists are cut off at MAX_ROWS."""
    difference = found.difference
    if not difference.differs:
        same = found.a.digest == found.b.digest
        yield "no difference" if same else "no difference, though the manifests are not the same"
        return
    yield _summary(found)
    yield from _block(_file_rows(difference.files))
    yield from _block(_tensor_rows(difference.tensors))
    values = [*difference.configuration, *difference.metadata]
    for name, group in groupby(values, key=lambda v: v.document):
        lines = [f"  {value.key}: {_change(value)}" for value in group]
        yield ""
        yield name
        yield from _cut_off(lines, "  ")


def _summary(found: DiffResult) -> str:
    difference = found.difference
    parts = [f"files: {_counts(f.status for f in difference.files)}"]
    if not difference.has_tensors:
        lacking = [side.reference for side in (found.a, found.b) if not side.indexed]
        parts.append(f"tensors: not compared, no index in {' and '.join(lacking)}")
    elif difference.tensors:
        parts.append(f"tensors: {_counts(t.status for t in difference.tensors)}")
    if difference.share.total_bytes:
        parts.append(_share(difference))
    return "; ".join(parts)


def _counts(statuses: Iterable[str]) -> str:
    found = list(statuses)
    counts = [(found.count(status), status) for status in _ORDER]
    return ", ".join(f"{n} {status}" for n, status in counts if n) or "none"


def _share(difference: Difference) -> str:
    share = difference.share
    # rounded down: 100 % is all of it
    whole, tenth = divmod(1000 * share.shared_bytes // share.total_bytes, 10)
    fetched = f", {human(share.fetch_bytes)} to fetch" if share.fetch_bytes else ""
    return f"{whole}.{tenth} % of {human(share.total_bytes)} shared{fetched}"


def _block(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield ""
        yield from _cut_off(table(rows[:MAX_ROWS]), "", len(rows))


def _cut_off(lines: Sequence[str], indent: str, n_lines: int | None = None) -> Iterator[str]:
    yield from lines[:MAX_ROWS]
    left = (len(lines) if n_lines is None else n_lines) - MAX_ROWS
    if left > 0:
        yield f"{indent}… and {left} more: --json has them all"


def _file_rows(files: Iterable[FileDifference]) -> list[tuple[str, str, str]]:
    return [(f.path, f.status, _file_change(f)) for f in files if f.status != "same"]


def _file_change(file: FileDifference) -> str:
    if file.path.endswith("/"):
        return ""
    a, b = (human(f.size) if f else "" for f in (file.a, file.b))
    parts = [_arrow(a, b)]
    if file.a and file.b:
        for one, other in ((file.a.kind, file.b.kind), (_mode(file.a), _mode(file.b))):
            parts += [_arrow(one, other)] if one != other else []
    return ", ".join(parts)


def _mode(file: ModelFile) -> str:
    return "executable" if file.mode & 0o111 else "not executable"


def _tensor_rows(tensors: Iterable[TensorDifference]) -> list[tuple[str, str, str]]:
    """One row for tensors that differ in a number of their name, and in the same way."""
    names: dict[tuple[str, str], list[str]] = {}
    for tensor in tensors:
        if tensor.status != "same":
            change = _arrow(_form(tensor.a), _form(tensor.b))
            names.setdefault((tensor.status, change), []).append(tensor.name)
    rows = [
        (pattern, status, change)
        for (status, change), found in names.items()
        for pattern in collapse(found)
    ]
    return sorted(rows, key=lambda row: (_ORDER.index(row[1]), row[0]))


def _form(named: NamedTensor | None) -> str:
    return f"{named.tensor.dtype} {list(named.tensor.shape)}" if named else ""


def _arrow(a: str, b: str) -> str:
    """What was and what is; once, if it is the same or there is no other."""
    return f"{a} → {b}" if a and b and a != b else a or b


def _change(value: ValueDifference) -> str:
    a = "absent" if value.status == "added" else json.dumps(value.a, ensure_ascii=False)
    b = "absent" if value.status == "removed" else json.dumps(value.b, ensure_ascii=False)
    n_equal = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
    # long texts are shown from where they begin to differ
    start = max(0, n_equal - _CONTEXT) if n_equal > _MAX_WIDTH - _CONTEXT else 0
    return f"{_excerpt(a, start)} → {_excerpt(b, start)}"


def _excerpt(value: str, start: int) -> str:
    end = start + _MAX_WIDTH
    return ("…" if start else "") + value[start:end] + ("…" if len(value) > end else "")
