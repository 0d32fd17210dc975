"""What each part of a context brings: pairs of rows of the table that differ in this part alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["CLAIMS", "HEAD", "claims"]

PAPER, OURS = "channel-spatial", "carried-state"
CLAIMS = (
    ("slices of channels", "mambavc", "none", ""),
    ("two passes per slice: the spatial context", PAPER, "channel", "-3.98"),
    ("window attention, windows of 8x8", PAPER, "no-wla", "-3.35"),
    ("window attention, 4x4", "window-4", "no-wla", ""),
    ("window attention, 16x16", "window-16", "no-wla", ""),
    ("window attention over 64 projected channels", "narrow-attention", "no-wla", ""),
    ("window attention, without the spatial context", "channel", "mambavc", ""),
    ("VSS blocks instead of convolutions", PAPER, "cnn", "fewer bits"),
    ("VSS blocks instead of transformer blocks", PAPER, "transformer", "fewer bits"),
    ("slices that grow", "uneven", PAPER, ""),
    ("inputs and outputs as in carried-state", "idea-paper-like-carried-state", PAPER, ""),
    ("carried-state instead of the paper's layout", OURS, PAPER, ""),
    ("carried-state: two passes per slice", OURS, "idea-one-pass", ""),
    ("carried-state: four passes", "idea-quad", OURS, ""),
    ("carried-state: five passes, coarse to fine", "idea-coarse-to-fine", OURS, ""),
    ("carried-state: slices that grow", OURS, "idea-even-slices", ""),
    ("carried-state: widest channels first", OURS, "idea-natural-order", ""),
    ("carried-state: window attention in the update", "idea-attention", OURS, ""),
    ("carried-state: VSS blocks in the update", "idea-vss", OURS, ""),
    ("carried-state: scales from side information alone", "carried-state-scale-first", OURS, ""),
)
"""The part, the context with it, the one without it, and the paper's own figure in % of bits where it has one."""

HEAD = ("part", "bpp without", "bpp with", "% of bits", "paper's %", "MMAC without", "MMAC with")


def claims(rows: list[dict[str, Any]], budget: str, distribution: str = "laplace") -> Iterator[list[str]]:
    """A line for each part of which both contexts were trained alike.

    Args:
        rows: of a report of `benchmarks/contexts.py`.
        budget: of the rows to compare.
        distribution: of the rows to compare, too.
    """
    known = {row["context"]: row for row in rows if (row["budget"], row["distribution"]) == (budget, distribution)}
    for part, one, other, paper in CLAIMS:
        if one in known and other in known:
            new, old = known[one], known[other]
            change = f"{100 * (new['bpp'] / old['bpp'] - 1):+.1f}"
            operations = (f"{row['multiply_adds'] / 1e6:.0f}" for row in (old, new))
            yield [part, f"{old['bpp']:.4f}", f"{new['bpp']:.4f}", change, paper, *operations]
