"""How long coding takes, beside what it gains: the paper's table 1."""

from __future__ import annotations

from collections.abc import Sequence

from mambaic.errors import CurveError
from mambaic.evaluation.bdrate import bd_rate
from mambaic.evaluation.curves import Curve
from mambaic.evaluation.tables import markdown
from mambaic.evaluation.timing import PARTS

_ABSENT = "-"


def latency_table(curves: Sequence[Curve], anchor: Curve | None, metric: str = "psnr") -> str:
    """A row for each curve: mean milliseconds an image over its points, in all and by part, and its BD-rate.

    Args:
        curves: results; where one has no times or no split, its cells hold a dash.
        anchor: of the BD-rate; None leaves that column out.
        metric: "psnr" or "ms-ssim".

    Raises:
        CurveError: no curve has times.
    """
    if not any(curve.mean("encoding_time") for curve in curves):
        raise CurveError("no file has an 'encoding_time': give results of `eval` or `classical`, or CompressAI's")
    parts = [part for part in PARTS if any(curve.mean(f"decoding_time_{part}") is not None for curve in curves)]
    times = [f"{which}ing_time{suffix}" for which in ("encod", "decod") for suffix in ("", *(f"_{p}" for p in parts))]
    titles = [f"{which}{f' {part}' if part else ''} ms" for which in ("encode", "decode") for part in ("", *parts)]
    rows = []
    for curve in curves:
        row = [curve.name, *(_milliseconds(curve.mean(key)) for key in times), _where(curve)]
        if anchor is not None:
            row.append(_bd_rate(curve, anchor, metric))
        rows.append(row)
    header = ["codec", *titles, "on"]
    return markdown(header if anchor is None else [*header, f"BD-rate vs {anchor.name}"], rows)


def _milliseconds(seconds: float | None) -> str:
    return _ABSENT if seconds is None else f"{1e3 * seconds:.1f}" if seconds < 10 else f"{1e3 * seconds:.0f}"


def _where(curve: Curve) -> str:
    if "device" not in curve.meta:
        return f"{curve.meta['threads']} thread" if "threads" in curve.meta else _ABSENT
    threads = curve.meta.get("threads", 1)
    return f"{curve.meta['device']}, {threads} thread{'s' * (threads != 1)}"


def _bd_rate(curve: Curve, anchor: Curve, metric: str) -> str:
    try:
        return f"{bd_rate(curve, anchor, metric).percent:+.2f} %"
    except CurveError:  # a table of times is of use without it
        return _ABSENT
