"""Words for people: sizes, counts, names, tables; nothing in them can play with the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def human(n_bytes: int) -> str:
    """A size in powers of 1000, as disks and registries have it: 90.9 MB."""
    size = float(n_bytes)
    if size < 1000:
        return f"{n_bytes} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if round(size, 1) < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def counted(n: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(names: Sequence[str], n_shown: int = 10) -> str:
    """The first few names, and how many there are beside them."""
    more = f" and {len(names) - n_shown} more" if len(names) > n_shown else ""
    return ", ".join(names[:n_shown]) + more


def shown(text: str) -> str:
    """`text` with all escaped that moves a cursor, changes colours or turns letters around.

    Names come from strangers: a file, a tag, what a registry says. Line breaks stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Rows with columns lined up; `right`: columns of numbers. A cell is one line."""
    cells = [[shown(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
