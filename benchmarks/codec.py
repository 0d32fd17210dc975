"""The whole codec, from pixels to the bytes of a file and back: time and memory, part by part, and a training step.

    python benchmarks/codec.py
    python benchmarks/codec.py --layouts paper --sizes 768x512 2048x1363 --json benchmarks/results/codec-cpu.json

Weights are random, but the latent and the predicted scales are spread like those of a trained model, so that files have
a trained model's size. Nothing is timed before a file has decoded to the encoder's own latent, bit for bit.
Times are medians, the codec whole. Parts are the stages of `ssmctx.stages`, measured in runs of their own, time and
memory in two. "step i" is the context's prediction for coding step i, and the refinement of a slice in the released
layout. Memory is what a part needs on top of what was in use before it; "resident" what the process has at its peak,
interpreter and weights included.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import machine, resident_bytes, seconds
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from mambaic.codec import PRESETS, MambaIC, Preset
from mambaic.images.image_files import read_image, to_float
from mambaic.training.loss import rate_distortion
from mambaic.training.optimisers import optimisers
from mambaic.training.recorded import RecordedTransforms

from ssmctx import ImageCodec
from ssmctx.compat.released import ReleasedMambaIC
from ssmctx.files import write_whole
from ssmctx.layers.transforms import pad_image
from ssmctx.memory import peak_memory
from ssmctx.stages import StagePeaks, StageTimes, observe

LOG_SCALES = (-1.5, 1.0)
"""Mean and spread of the logarithm of the scales: 0.6 bits per symbol."""


def make(layout: str, preset: str) -> ImageCodec:
    """A codec of one of the example's sizes, with random weights."""
    torch.manual_seed(0)
    if layout == "paper":
        return MambaIC(preset)
    p = PRESETS[preset]
    return ReleasedMambaIC(p.N, p.M, p.depths, hyper_channels=p.hyper_channels, d_state=p.d_state)


@torch.no_grad()
def make_realistic(model: ImageCodec, pixels: Tensor) -> None:
    """Let each channel of y have the spread that the context predicts for it."""
    model.eval()
    mean, spread = LOG_SCALES
    codec, last = model.latent_codec, model.g_a[-1]
    generator = torch.Generator().manual_seed(0)
    scales = (mean + spread * torch.randn(codec.M, generator=generator)).exp().to(last.weight)
    y = model.g_a(pad_image(to_float(pixels).to(last.weight)))
    factor = scales / y.std((0, 2, 3))
    last.bias.sub_(y.mean((0, 2, 3))).mul_(factor)
    last.weight.mul_(factor[:, None, None, None])
    for k, part in enumerate(scales.split(codec.context.order.slices)):
        if isinstance(model, MambaIC):
            outputs = [(codec.context.head[k][-1], torch.cat([torch.zeros_like(part), part]))]
        else:
            outputs = [(codec.context.mean_head[k].out_conv, part * 0), (codec.context.scale_head[k].out_conv, part)]
        for layer, bias in outputs:
            layer.weight.mul_(0.1)
            layer.bias.copy_(bias)
    model.update()


def realistic(layout: str, preset: str, pixels: Tensor, device: str = "cpu") -> ImageCodec:
    """A codec with random weights whose files of `pixels` have a trained model's size."""
    model = make(layout, preset).to(device)
    make_realistic(model, pixels)
    return model


def image(width: int, height: int, path: Path | None) -> Tensor:
    """uint8 pixels (3, height, width): of a file, repeated as needed, or noise of all coarsenesses."""
    if path is not None:
        pixels = read_image(path)
        rows, columns = (torch.arange(n) % have for n, have in zip((height, width), pixels.shape[1:], strict=True))
        return pixels[:, rows][:, :, columns]
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(1, 3, height, width)
    for cell in (2, 8, 32, 128):
        noise = torch.randn(1, 3, -(-height // cell) + 1, -(-width // cell) + 1, generator=generator)
        total += cell**0.5 * F.interpolate(noise, size=(height, width), mode="bilinear")
    return (128 + 8 * total[0]).clamp(0, 255).byte()


class PartTimes(StageTimes):
    """Seconds by stage, the coding steps apart."""

    def key(self, stage: str, index: int | None) -> str:
        """See `part_name`."""
        return part_name(stage, index)


class PartPeaks(StagePeaks):
    """Peak memory by stage, the coding steps apart."""

    def key(self, stage: str, index: int | None) -> str:
        """See `part_name`."""
        return part_name(stage, index)


def part_name(stage: str, index: int | None) -> str:
    """What the tables call a stage."""
    return f"step {index}" if stage == "context" and index is not None else stage


def cost_of_parts(run: Callable[[], object], device: str) -> tuple[dict[str, float], dict[str, int | None]]:
    """Seconds and peak bytes of every part, measured in two runs."""
    times, peaks = PartTimes(device), PartPeaks(device)
    start = times.now()
    with observe(times):
        run()
    whole = times.now() - start
    with observe(peaks):
        run()
    times.seconds["rest"] = whole - sum(times.seconds.values())
    return times.seconds, peaks.peaks


def measure(layout: str, preset: str, pixels: Tensor, rounds: int, device: str) -> dict[str, object]:
    """Check the round trip of a codec with random weights, then measure encoding and decoding."""
    model = realistic(layout, preset, pixels, device)
    x = to_float(pixels).to(device)
    coded = model.compress(x)
    # latents, not pixels: these are rounded to integers, which would hide a drift
    if not torch.equal(model.latent_codec.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"]):
        raise SystemExit("not timed: the codec does not decode to the encoder's own latent")
    data = model.encode(pixels)
    model.decode(data)
    runs = {
        "encode": lambda: model.encode(pixels),
        "decode": lambda: model.decode(data),
    }
    times = seconds(runs, rounds, device, warm=True)
    result: dict[str, object] = {"bytes": len(data), "bpp": 8 * len(data) / pixels[0].numel()}
    for name, run in runs.items():
        with peak_memory(device) as peak:
            before = resident_bytes(device)
            run()
        took, needs = cost_of_parts(run, device)
        result[name] = {
            "seconds": times[name],
            "peak_bytes": peak[0],
            "resident_bytes": None if peak[0] is None else before + peak[0],
            "parts": {
                part: {
                    "seconds": spent,
                    "share": spent / sum(took.values()),
                    "peak_bytes": needs.get(part),
                }
                for part, spent in took.items()
            },
        }
    return result


def step_of_training(
    layout: str, preset: str, batch: int, crop: int, device: str, bf16: bool = False, graphs: bool = False
) -> Callable[[], None]:
    """A step of training in float32, or with bfloat16 products: forward, backward, both optimisers; with CUDA graphs of
    g_a and g_s where they are asked for."""
    model = make(layout, preset).to(device).train()
    net, aux = optimisers(model, "adam", 1e-4, 1e-3)
    x = torch.rand(batch, 3, crop, crop, device=device)
    if graphs:
        RecordedTransforms(model, "bf16" if bf16 else "no").fit(x)

    def run() -> None:
        net.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            out = model(x)
        rate_distortion({**out, "x_hat": out["x_hat"].float()}, x, 0.0067, "mse").loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        net.step()
        aux.zero_grad(set_to_none=True)
        model.aux_loss().backward()
        aux.step()

    return run


def training_step(
    layout: str, preset: str, batch: int, crop: int, rounds: int, device: str, bf16: bool = False, graphs: bool = False
) -> dict[str, object]:
    """Time and memory of a step of training."""
    run = step_of_training(layout, preset, batch, crop, device, bf16, graphs)
    times = seconds({"step": run}, rounds, device)
    with peak_memory(device) as peak:
        run()
    # what graphs compute in is theirs from before, and not seen here
    return {"batch": batch, "crop": crop, "seconds": times["step"], "peak_bytes": None if graphs else peak[0]}


def show(title: str, result: dict[str, Any]) -> None:
    """Print one configuration as a table."""
    print(f"\n{title}: {result['bytes']:,} bytes, {result['bpp']:.3f} bpp")
    for name in ("encode", "decode"):
        whole = result[name]
        print(
            f"{name}: {whole['seconds']:.3f} s, {_mega(whole['peak_bytes'])}, resident {_mega(whole['resident_bytes'])}"
        )
        for part, cost in whole["parts"].items():
            print(f"  {part:12}{cost['seconds']:9.4f} s{100 * cost['share']:7.1f} %{_mega(cost['peak_bytes']):>12}")


def _mega(number: float | None) -> str:
    return "-" if number is None else f"{number / 1e6:,.0f} MB"


def _pair(text: str) -> tuple[int, int]:
    first, second = (int(part) for part in text.split("x"))
    return first, second


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of_the_paper = [name for name, sizes in PRESETS.items() if isinstance(sizes, Preset)]
    parser.add_argument("--preset", default="full", choices=of_the_paper)
    parser.add_argument("--layouts", nargs="*", default=["paper", "released"], choices=["paper", "released"])
    parser.add_argument("--sizes", nargs="*", type=_pair, default=[(768, 512), (2048, 1363)], metavar="WIDTHxHEIGHT")
    parser.add_argument("--image", type=Path, help="image file to code; default noise")
    parser.add_argument("--train", type=_pair, metavar="BATCHxCROP", help="also time a training step")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds; medians are shown")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="also write the results here; other entries there stay")
    options = parser.parse_args()
    about = machine()
    print(json.dumps(about))
    found: dict[str, object] = {}
    for layout in options.layouts:
        for width, height in options.sizes:
            title = f"{options.preset}, {layout}, {width}x{height}"
            pixels = image(width, height, options.image)
            result = measure(layout, options.preset, pixels, options.rounds, options.device)
            found[title] = result | {"machine": about}
            show(title, result)
        if options.train:
            batch, crop = options.train
            result = training_step(layout, options.preset, batch, crop, options.rounds, options.device)
            found[f"{options.preset}, {layout}, training step of {batch} crops of {crop}"] = result | {"machine": about}
            print(f"\ntraining step: {result['seconds']:.3f} s, {_mega(result['peak_bytes'])}")
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        write_whole(options.json, (json.dumps(known | found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
