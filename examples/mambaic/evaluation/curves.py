"""Rate-distortion curves: CompressAI's result files, ours, and the bundled published ones."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mambaic.errors import CurveError
from ssmctx.files import write_whole

PUBLISHED = Path(__file__).parent / "published"
DEFAULT_DATASET = "kodak"
DEFAULT_SELECTION = ("vtm", "mambaic", "mambavc", "elic", "hyperprior", "avif", "webp", "jpeg")
METRICS = {"psnr": "psnr-rgb", "ms-ssim": "ms-ssim-rgb"}
LABELS = {"psnr": "PSNR (dB)", "ms-ssim": "MS-SSIM (dB)"}
_CLOSEST_DB = 100.0
_SAME_PIXELS = 1.1  # means of one data set, which papers round


@dataclass(frozen=True)
class Curve:
    """One codec's points, in CompressAI's layout.

    Attributes:
        name: of the codec.
        results: "bpp", "psnr-rgb" in dB, "ms-ssim-rgb" between 0 and 1, "encoding_time" and "decoding_time" in seconds;
            a list each, in the order of the points.
        description: one line.
        meta: where the figures come from: "source", "dataset", "pixels" of an image, and what else is known.
        images: the same lists for each image, where the file has them.
    """

    name: str
    results: dict[str, list[float]]
    description: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)

    def points(self, metric: str) -> tuple[list[float], list[float]]:
        """Rates in bits per pixel, ascending, and the quality at each in dB.

        Raises:
            CurveError: the curve has no such metric, or no rates.
        """
        if metric not in METRICS:
            raise CurveError(f"unknown metric {metric!r}: choose one of {', '.join(METRICS)}")
        key = METRICS[metric]
        if key not in self.results:
            raise CurveError(f"{self.name} has no {key}: it has {', '.join(self.results)}")
        values = [decibels(v) for v in self.results[key]] if metric == "ms-ssim" else self.results[key]
        rates, quality = zip(*sorted(zip(self.results["bpp"], values, strict=True)), strict=True)
        return list(rates), list(quality)

    def has(self, metric: str) -> bool:
        """Whether the curve has a metric."""
        return METRICS[metric] in self.results

    def mean(self, key: str) -> float | None:
        """Mean of a list of results over the points; None where the file has none."""
        values = self.results.get(key)
        return math.fsum(values) / len(values) if values else None


def decibels(ms_ssim: float) -> float:
    r"""MS-SSIM in dB, $-10 \log_{10}(1 - \mathrm{MS\text{-}SSIM})$."""
    return min(_CLOSEST_DB, -10 * math.log10(max(1e-10, 1 - ms_ssim)))


def read_curve(source: str | Path) -> Curve:
    """A curve from a JSON file, or a published one by name: "vtm", "elic", "tecnick/vtm", ...

    Reads CompressAI's layout, old key names included, with or without the outer "results".

    Raises:
        CurveError: neither a file nor a known name, or no result file.
    """
    path = Path(source)
    if not path.is_file():
        path = _published_file(str(source))
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CurveError(f"{path} is not JSON ({error}): give a file that `eval --json` or CompressAI wrote") from None
    if not isinstance(content, dict):
        raise CurveError(f"{path} holds a {type(content).__name__}, not results in CompressAI's layout")
    results = content.get("results", content)
    curve = Curve(
        str(content.get("name", path.stem)),
        _lists(path, results),
        str(content.get("description", "")),
        content.get("meta") or {},
        content.get("images") or {},
    )
    if not curve.results.get("bpp"):
        raise CurveError(f"{path} has no list 'bpp': give a file that `eval --json` or CompressAI wrote")
    lengths = {key: len(values) for key, values in curve.results.items()}
    if len(set(lengths.values())) > 1:
        raise CurveError(f"{path}: the lists differ in length: {lengths}")
    if not all(0 <= v <= 1 for v in curve.results.get("ms-ssim-rgb", [])):
        raise CurveError(f"{path}: 'ms-ssim-rgb' must lie between 0 and 1, as CompressAI has it; it seems to be in dB")
    return curve


def write_curve(path: str | Path, content: dict[str, Any]) -> None:
    """Write results, as `results.py` makes them, so that CompressAI's tools and `read_curve` read them."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def published_names() -> list[str]:
    """Names of the bundled curves; those on Kodak without the data set's name."""
    files = sorted(PUBLISHED.rglob("*.json"), key=lambda p: (p.parent.name != DEFAULT_DATASET, p))
    return [p.relative_to(PUBLISHED).with_suffix("").as_posix().removeprefix(f"{DEFAULT_DATASET}/") for p in files]


def datasets(curves: Sequence[Curve]) -> list[str]:
    """What the curves were measured on, each name once whatever its case; the last spelling counts."""
    names = {str(c.meta["dataset"]).lower(): str(c.meta["dataset"]) for c in curves if "dataset" in c.meta}
    return list(names.values())


def same_images(a: Curve, b: Curve) -> bool:
    """Whether two curves were measured on the same images, as far as their files tell."""
    if a.images and b.images:
        return _sizes(a) == _sizes(b)
    names = [str(c.meta["dataset"]).lower() for c in (a, b) if "dataset" in c.meta]
    pixels = [float(c.meta["pixels"]) for c in (a, b) if c.meta.get("pixels")]
    close = len(pixels) < 2 or max(pixels) <= _SAME_PIXELS * min(pixels)
    return close and len(set(names)) < 2


def _sizes(curve: Curve) -> dict[str, tuple[Any, Any]]:
    return {Path(name).stem: (image.get("width"), image.get("height")) for name, image in curve.images.items()}


def _published_file(name: str) -> Path:
    names = published_names()
    if name in names:
        return PUBLISHED / (f"{name}.json" if "/" in name else f"{DEFAULT_DATASET}/{name}.json")
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CurveError(f"no file and no published curve {name!r}: {hint}`bdrate --list` names the published ones")


def _lists(path: Path, results: Any) -> dict[str, list[float]]:
    """The lists of numbers among the results, under today's names."""
    if not isinstance(results, dict):
        raise CurveError(f"{path}: 'results' must be lists by name, got {type(results).__name__}")
    lists = {k: v for k, v in results.items() if isinstance(v, list) and v and all(map(_is_number, v))}
    for old, new in METRICS.items():
        if old in lists:
            lists.setdefault(new, lists.pop(old))
    return lists


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
