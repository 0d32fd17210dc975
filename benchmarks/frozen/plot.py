"""The plot of all contexts: bits against decoding time.

PYTHONPATH=benchmarks python -m frozen.plot benchmarks/results/contexts.json docs/assets/contexts.png
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

_KINDS = (
    ("ours", ("carried-state",), "tab:red"),
    ("CompressAI's", ("compressai-",), "tab:blue"),
    ("MambaIC's and its variants", ("",), "tab:gray"),
)
"""Kinds of contexts, by how their names start."""

_PLACES = [(x, y) for reach in (0, 9, 18, 27) for y in (3 + reach, -9 - reach) for x in (6, -6)]
"""Where a label may be, in points from its dot; to the left of it where x is below 0."""

_NEAR = 9
"""Points up to which a label needs no line to its dot."""


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Bits against decoding time of the timed rows of one budget, that of most rows; ideas are left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    timed = [row for row in rows if row["decode_s"] and not row["context"].startswith("idea-")]
    budget = statistics.mode(row["budget"] for row in timed)
    timed = [row for row in timed if row["budget"] == budget]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    labels = []
    for kind, starts, colour in _KINDS:
        own = [row for row in timed if row["context"].startswith(starts)]
        timed = [row for row in timed if row not in own]
        dots = [(1e3 * row["decode_s"], row["bpp"]) for row in own]
        axes.scatter([x for x, _ in dots], [y for _, y in dots], color=colour, label=kind)
        labels += [(row["context"], dot, colour) for row, dot in zip(own, dots, strict=True)]
    axes.margins(x=0.1, y=0.08)
    axes.set_xlabel("ms to decode y and z of a 768x512 image, one thread")
    axes.set_ylabel("bits per pixel, mean of all test images")
    axes.set_title(f"Contexts trained alike on the same latents ({budget})", fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=len(_KINDS), frameon=False)
    figure.canvas.draw()  # the layout is settled from here on
    _label(axes, sorted(labels, key=lambda label: label[1]))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _label(axes: Any, labels: list[tuple[str, tuple[float, float], str]]) -> None:
    """Write each label at the first of `_PLACES` that is free, or at the last."""
    from matplotlib.transforms import Bbox

    corners = [axes.transData.transform(dot) for _, dot, _ in labels]
    taken = [Bbox([corner - 8, corner + 8]) for corner in corners]
    for name, dot, colour in labels:
        for x, y in _PLACES:
            place = {"xytext": (x, y), "textcoords": "offset points", "ha": "left" if x > 0 else "right"}
            text = axes.annotate(name, dot, **place, fontsize=7, color=colour, in_layout=False)
            box = text.get_window_extent()
            free = box.x0 > axes.bbox.x0 and box.x1 < axes.bbox.x1 and not any(box.overlaps(other) for other in taken)
            if free or (x, y) == _PLACES[-1]:
                break
            text.remove()
        if abs(y) > _NEAR:
            axes.annotate("", dot, **place, arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5})
        taken.append(box)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    plot(json.loads(source.read_text())["rows"], target)
