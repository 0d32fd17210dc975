"""Notes to the user, in addition to a command's output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mambaic.evaluation.curves import Curve


def note_different_images(curves: Sequence[Curve]) -> None:
    """Warn on stderr if compared curves were measured on different images."""
    from mambaic.evaluation.curves import datasets

    measured_on = datasets(curves)
    if len(measured_on) > 1:
        print(f"note: these curves were measured on different images: {', '.join(measured_on)}", file=sys.stderr)


def check_same_images(curves: Sequence[Curve], anchor: Curve, force: bool) -> None:
    """Refuse BD-rates of curves that were measured on other images than their anchor, or with `force` say so on stderr.

    Raises:
        CurveError: the images differ, and `force` is not set.
    """
    from mambaic.errors import CurveError
    from mambaic.evaluation.curves import same_images

    for curve in curves:
        if not same_images(curve, anchor):
            what = f"{_images(curve)} of {curve.name} and {_images(anchor)} of {anchor.name} are different images"
            if not force:
                raise CurveError(f"{what}, so that a BD-rate means nothing: measure both on the same, or give --force")
            print(f"note: {what}", file=sys.stderr)


def _images(curve: Curve) -> str:
    count = len(curve.images) or curve.meta.get("pictures")
    pixels = curve.meta.get("pixels")
    facts = []
    if count:
        facts.append(f"{count} images")
    if pixels:
        facts.append(f"{pixels:.0f} pixels each")
    name = str(curve.meta.get("dataset", "the images"))
    return f"{name} ({', '.join(facts)})" if facts else name
