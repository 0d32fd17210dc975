"""Files that cross devices: coded on the one, decoded on the other, and how far scales drift between them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codec import image, realistic
from decode_anywhere import drift, exchange
from mambaic.bundled import load_bundled
from mambaic.images.image_files import find_images, read_image, write_png

from on_gpu.parts import Clock, Save, each
from on_gpu.plan import Inputs, Plan
from ssmctx.entropy.guard import DEFAULT_BAND

_IMAGES = 4
_COPIES = 4


def measure_across(plan: Plan, inputs: Inputs, save: Save, clock: Clock) -> None:
    """The bundled checkpoint first, whose scales are trained, then larger presets with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        items: list[tuple[str, Callable[[], Any]]] = []
        for preset, width, height in plan.across:
            noise = Path(folder) / f"{width}x{height}.png"
            write_png(noise, image(width, height, None))
            trained = preset == "tiny"
            photographs = find_images(inputs.images)[:_IMAGES] if trained and inputs.images else [noise]
            items.append((preset, lambda p=preset, paths=photographs, t=trained: crossed(plan, p, paths, t)))
        each(items, save, clock)


def crossed(plan: Plan, preset: str, paths: list[Path], trained: bool) -> dict[str, Any]:
    """Every pair of device and CPU, and the drift between them and in a batch, against the guard's band."""
    settings = {"CPU": ("cpu", "cpu", len(os.sched_getaffinity(0)))}
    settings["GPU"] = ("cuda", "auto", settings["CPU"][2]) if plan.device == "cuda" else ("cpu", "torch", 1)
    report: dict[str, Any] = {"pictures": len(paths), "guard_band": DEFAULT_BAND, "trained": trained}
    model = load_bundled("tiny") if trained else realistic("paper", preset, read_image(paths[0]))
    exchange(model, paths, settings, report)
    walks = {"CPU -> GPU": ("CPU", 1), f"GPU -> GPU, batch of {_COPIES}": ("GPU", _COPIES)}
    for name, (base, copies) in walks.items():
        moved = drift(model, paths[:1], settings[base], settings["GPU"], copies)
        largest = moved["largest_relative_drift"]
        report[f"drift, {name}"] = {**moved, "band_over_drift": DEFAULT_BAND / largest if largest else None}
    return report
