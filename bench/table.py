"""Turn samples into the one table that `make bench` prints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.cases import MIB, Case, Limit
from bench.measure import Sample

COLUMNS = [
    *("case", "tool", "wall s median (min-max)", "ocimodel/tool", "pairwise"),
    *("target", "verdict", "RSS MiB", "CPU s"),
]


@dataclass(slots=True)
class Result:
    """What a case gave. `notes`: why a tool has no samples."""

    case: Case
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def median_wall(samples: Sequence[Sample]) -> float:
    return statistics.median(sample.wall_s for sample in samples)


def ratios(mine: Sequence[Sample], other: Sequence[Sample]) -> tuple[float, float]:
    """The ratio of the medians, and the median of the ratios round by round."""
    pairs = [a.wall_s / b.wall_s for a, b in zip(mine, other, strict=False)]
    return median_wall(mine) / median_wall(other), statistics.median(pairs)


def tool_row(result: Result, tool: str, label: str) -> list[str]:
    goal = result.case.goals.get(tool)
    target = f"≤ {goal:.1f}x" if goal else ""
    samples = result.samples.get(tool)
    if not samples:
        return [label, tool, result.notes.get(tool, "no samples"), "", "", target, "", "", ""]
    walls = [sample.wall_s for sample in samples]
    wall = f"{median_wall(samples):.3f} ({min(walls):.3f}-{max(walls):.3f})"
    ratio = pair = verdict = ""
    mine = result.samples.get("ocimodel")
    if mine and not tool.startswith("ocimodel"):
        of_medians, pairwise = ratios(mine, samples)
        ratio, pair = f"{of_medians:.2f}", f"{pairwise:.2f}"
        verdict = ("PASS" if of_medians <= goal else "MISS") if goal else ""
    rss = f"{max(sample.rss_bytes for sample in samples) / MIB:.0f}"
    cpu = f"{statistics.median(sample.cpu_s for sample in samples):.2f}"
    return [label, tool, wall, ratio, pair, target, verdict, rss, cpu]


def limit_row(result: Result, limit: Limit, label: str) -> list[str]:
    value = limit.value(result.samples)
    shown = "-" if value is None else f"{value:.4g} {limit.unit}"
    if value is not None and (beside := limit.beside(result.samples)):
        shown += f" ({beside})"
    target = verdict = ""
    if limit.at_most is not None:
        target = f"≤ {limit.at_most:g} {limit.unit}"
        verdict = "" if value is None else "PASS" if value <= limit.at_most else "MISS"
    return [label, f"» {limit.what}", shown, "", "", target, verdict, "", ""]


def rows_of(result: Result) -> list[list[str]]:
    case = result.case
    shown = [entry.tool for entry in case.entries if case.timed or entry.tool in result.notes]
    rows = [tool_row(result, tool, case.name) for tool in shown]
    return rows + [limit_row(result, limit, case.name) for limit in case.limits]


def render(results: Sequence[Result]) -> str:
    """The table, one block a case, headed by the case's title."""
    blocks = [(result, rows_of(result)) for result in results]
    every = [COLUMNS, *(row for _, rows in blocks for row in rows)]
    widths = [min(max(len(row[i]) for row in every), 60) for i in range(len(COLUMNS))]
    lines = [line(COLUMNS, widths)]
    for result, rows in blocks:
        lines += ["", f"# {result.case.title}", *(line(row, widths) for row in rows)]
    return "\n".join(lines)


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def misses(results: Sequence[Result]) -> int:
    return sum(row[6] == "MISS" for result in results for row in rows_of(result))


def as_document(results: Sequence[Result]) -> list[dict[str, object]]:
    """The samples and the rows, for --json."""
    return [
        {
            "case": result.case.name,
            "title": result.case.title,
            "rows": [dict(zip(COLUMNS, row, strict=True)) for row in rows_of(result)],
            "samples": {
                tool: [
                    {"wallS": s.wall_s, "cpuS": s.cpu_s, "rssBytes": s.rss_bytes} for s in samples
                ]
                for tool, samples in result.samples.items()
            },
            "notes": result.notes,
        }
        for result in results
    ]
