"""Does a file decode where numbers differ? Encode in one setting, decode in others, and measure how far scales drift.

    python benchmarks/decode_anywhere.py model.pt images/
    python benchmarks/decode_anywhere.py tiny kodak/ --json benchmarks/results/decode-anywhere.json

Settings are scan backends, numbers of threads and devices. Every pair of them is tried: all images are encoded in
the one and decoded in the other, through the bytes of a `.sic` file. Symbols are exact or the decoder says so; pixels
may differ by the drift of the means. The drift is also measured against images coded four at a time, which our
codec never does. The cost of the guard is its share of the files.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from measure import machine
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from mambaic.codec import MambaIC
from mambaic.images.coding import load
from mambaic.images.image_files import find_images, read_image, to_float

from ssmctx.distributions import ScaleGrid
from ssmctx.entropy.bitstream import CodedImage
from ssmctx.entropy.guard import DEFAULT_BAND
from ssmctx.entropy.numerics import coding_numerics
from ssmctx.entropy.steps import Step, coding_steps, drive
from ssmctx.errors import StreamError
from ssmctx.files import write_whole
from ssmctx.layers.transforms import pad_image
from ssmctx.layers.vss import SS2D

Setting = tuple[str, str, int]
"""Device, scan backend, threads."""

SETTINGS: dict[str, Setting] = {"torch scan, 1 thread": ("cpu", "torch", 1), "cpu scan, 2 threads": ("cpu", "cpu", 2)}
if torch.cuda.is_available():
    SETTINGS[torch.cuda.get_device_name()] = ("cuda", "auto", 2)


def put(model: MambaIC, setting: Setting) -> MambaIC:
    """The model in a setting."""
    device, backend, threads = setting
    torch.set_num_threads(threads)
    for module in model.modules():
        if isinstance(module, SS2D):
            module.scan_backend = backend
    return model.to(device)


@torch.no_grad()
def walk(model: MambaIC, y: Tensor, symbols: list[Tensor] | None, copies: int) -> tuple[Tensor, list[Tensor]]:
    """Scales of all steps, and z's and all steps' symbols: those given, or y's own."""
    codec = model.latent_codec
    with coding_numerics(codec):
        medians = codec.entropy_bottleneck.medians()
        found = [torch.round(codec.h_a(y) - medians)] if symbols is None else [symbols[0].to(y)]
        side = codec.h_s((found[0] + medians).repeat(copies, 1, 1, 1))[..., : y.shape[2], : y.shape[3]]
        scales = []

        def quantised(step: Step) -> Tensor:
            scales.append(step.gather(step.scale)[:1].flatten())
            own = symbols is None
            found.append(torch.round(step.residual(y)) if own else symbols[len(found)].to(y))
            return found[-1].repeat(copies if not own else 1, 1, 1, 1)

        drive(coding_steps(codec.context, side), quantised)
    return torch.cat(scales).cpu(), found


def drift(model: MambaIC, images: list[Path], base: Setting, other: Setting, copies: int) -> dict[str, float]:
    """How far the scales of one setting lie from those of another that codes the same symbols."""
    worst, rows = 0.0, 0
    for path in tqdm(images, desc=f"drift, {other[0]}{' x 4' * (copies > 1)}", leave=False):
        put(model, base)
        x = pad_image(to_float(read_image(path))).to(next(model.parameters()).device)
        with torch.no_grad():
            y = model.g_a(x)
        scale, symbols = walk(model, y, None, 1)
        put(model, other)
        moved, _ = walk(model, y.to(next(model.parameters()).device), symbols, copies)
        above = scale > ScaleGrid().minimum  # below the floor all are coded alike
        worst = max(worst, float(((moved - scale).abs() / scale)[above].max()))
        rows += int((ScaleGrid().index(moved) != ScaleGrid().index(scale)).sum())
    return {"largest_relative_drift": worst, "rows_that_would_differ": rows}


def exchange(model: MambaIC, images: list[Path], settings: dict[str, Setting], report: dict[str, object]) -> None:
    """Encode all images in each setting and decode them in all; adds what came of it to the report."""
    size = guard = 0
    for source, setting in settings.items():
        codec = put(model, setting)
        coded = [codec.encode(read_image(path)) for path in tqdm(images, desc=source, leave=False)]
        size = sum(map(len, coded))
        guard = sum(len(part) for data in coded for part in CodedImage.from_bytes(data).sections[2:])
        own = [codec.decode(data) for data in coded]
        for target in settings:
            codec = put(model, settings[target])
            exact, pixels = 0, 0
            for data, expected in zip(tqdm(coded, desc=f"{source} -> {target}", leave=False), own, strict=True):
                try:
                    decoded = codec.decode(data)
                except StreamError as error:
                    print(error)
                    continue
                exact += 1
                pixels += int((decoded != expected).sum())
            report[f"{source} -> {target}"] = {"symbols_exact": exact, "pixel_values_that_differ": pixels}
            print(f"{source} -> {target}: symbols of {exact} of {len(images)} exact, {pixels} pixel values differ")
    report["bytes"], report["guard_bytes"] = size, guard
    print(f"guard: {guard} of {size} bytes, {100 * guard / size:.2f} %, checksums included")


def main() -> None:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a file, or the name of a bundled one, base or tiny")
    parser.add_argument("images", type=Path, help="a folder")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    images, model = find_images(options.images), load(options.checkpoint)
    report: dict[str, object] = {"machine": machine(), "pictures": len(images), "guard_band": DEFAULT_BAND}
    exchange(model, images, SETTINGS, report)
    base = next(iter(SETTINGS))
    for other, copies in [(name, 1) for name in SETTINGS if name != base] + [("cpu scan, 2 threads", 4)]:
        result = drift(model, images, SETTINGS[base], SETTINGS[other], copies)
        report[f"drift, {base} -> {other}, batch of {copies}"] = result
        print(f"{base} -> {other}, batch of {copies}: {result}")
    if options.json:
        write_whole(options.json, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
