"""The table of all results in a folder."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

Result = dict[str, Any]

BASELINE = "channel-spatial"


def read_results(folder: Path) -> list[Result]:
    """The results of all runs in a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.result.json"))]


def grouped(results: list[Result]) -> list[dict[str, Any]]:
    """One row for each context, distribution and budget: seeds together, best first."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        plan = result["plan"]
        key = tuple(plan[name] for name in ("context", "distribution", "steps", "minutes", "batch", "crop", "rate"))
        groups.setdefault(key, []).append(result)
    rows = [_row(group) for group in groups.values()]
    timed = {(row["context"], row["distribution"]): row for row in rows if row["decode_s"]}
    for row in rows:
        like = timed.get((row["context"], row["distribution"]), row)  # the same layers, trained for longer or not
        row.update(loop_s=like["loop_s"], decode_s=like["decode_s"])
        paper = [other for other in rows if other["context"] == BASELINE and other["budget"] == row["budget"]]
        for column, distribution in (("against_same", row["distribution"]), ("against_gaussian", "gaussian")):
            found = [other["bpp"] for other in paper if other["distribution"] == distribution]
            row[column] = row["bpp"] / found[0] - 1 if found else None
    return sorted(rows, key=lambda row: (row["budget"], row["bpp"]))


def _row(group: list[Result]) -> dict[str, Any]:
    rates = [result["bpp"] for result in group]
    first = group[0]
    plan = first["plan"]
    budget = f"{plan['steps']:,} steps" if plan["steps"] else f"{plan['minutes']:g} min"
    return {
        "context": plan["context"],
        "distribution": plan["distribution"],
        "budget": budget,
        "steps": statistics.mean(result["steps"] for result in group),
        "seeds": len(group),
        **{name: plan[name] for name in ("batch", "crop", "rate")},
        "bpp": statistics.mean(rates),
        "spread": max(rates) - min(rates) if len(rates) > 1 else None,
        "parameters": first["parameters"],
        "multiply_adds": first["multiply_adds"],
        "loop_s": first.get("times", {}).get("loop"),
        "decode_s": first.get("times", {}).get("decode"),
        "drift": first.get("drift"),
        "commits": sorted({result["machine"]["commit"] for result in group}),
    }


HEAD = (
    "context",
    "distribution",
    "budget",
    "seeds",
    "bpp",
    "spread",
    "% to paper's, same distribution",
    "% to paper's, Gaussian",
    "params",
    "MMAC",
    "loop ms",
    "decode ms",
)


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text, in the columns of `HEAD`."""

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:+.1f}"

    def milliseconds(value: float | None) -> str:
        return "" if value is None else f"{1e3 * value:.0f}"

    return [
        row["context"],
        row["distribution"],
        row["budget"],
        str(row["seeds"]),
        f"{row['bpp']:.4f}",
        "" if row["spread"] is None else f"{row['spread']:.4f}",
        percent(row["against_same"]),
        percent(row["against_gaussian"]),
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['multiply_adds'] / 1e6:.0f}",
        milliseconds(row["loop_s"]),
        milliseconds(row["decode_s"]),
    ]


def text_table(rows: list[dict[str, Any]]) -> str:
    """All rows in columns."""
    lines = [list(HEAD), *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
