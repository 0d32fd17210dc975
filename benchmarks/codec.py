"""The whole codec, from pixels to the bytes of a file and back: time and memory, part by part, and a training step.

    python benchmarks/codec.py
    python benchmarks/codec.py --layouts paper --sizes 768x512 2048x1363 --json benchmarks/results/codec-cpu.json

Weights are random, but the latent and the predicted scales are spread like those of a trained model, so that files have
a trained model's size. Nothing is timed before a file has decoded to the encoder's own latent, bit for bit.
Times are medians, the codec whole. Parts are measured in runs of their own, time and memory in two. "step i" is the
context's work for coding step i, with what step i-1 leaves to do: y_hat, and the refinement of a slice in the released
layout. "symbols" is rounding, rows, guard and, on a GPU, every transfer. Memory is what a part needs on top of what was
in use before it; "resident" what the process has at its peak, interpreter and weights included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from measure import machine, resident_bytes, seconds
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from compressai.losses import RateDistortionLoss
from compressai.optimizers import net_aux_optimizer
from mambaic.codec import PRESETS, MambaIC
from mambaic.files import PictureCodec
from mambaic.images import read_image, to_float

from ssmctx.compat.released import ReleasedMambaIC
from ssmctx.entropy import model as entropy_model
from ssmctx.entropy.coders import Coder
from ssmctx.entropy.container import CodedPicture, write_whole
from ssmctx.entropy.steps import Step, coding_steps
from ssmctx.entropy.streams import LatentReader, LatentWriter
from ssmctx.layers.transforms import pad_image
from ssmctx.memory import peak_memory

LOG_SCALES = (-1.5, 1.0)
"""Mean and spread of the logarithm of the scales: 0.6 bits a symbol."""


class Released(ReleasedMambaIC):
    """The released layout, with what the example's files ask of a codec."""

    def reconstruct(self, y_hat: Tensor, size: tuple[int, int]) -> Tensor:
        """The picture of y_hat."""
        return self.g_s(y_hat).clamp(0, 1)[..., : size[0], : size[1]]


def make(layout: str, preset: str) -> MambaIC | Released:
    """A codec of one of the example's sizes, with random weights."""
    torch.manual_seed(0)
    if layout == "paper":
        return MambaIC(preset)
    p = PRESETS[preset]
    return Released(p.N, p.M, p.depths, hyper_channels=p.hyper_channels, d_state=p.d_state)


@torch.no_grad()
def make_realistic(model: MambaIC | Released, pixels: Tensor) -> None:
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


def picture(width: int, height: int, path: Path | None) -> Tensor:
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


class Parts:
    """What the parts of one run cost, in seconds or in bytes, by name in the order of first use."""

    def __init__(self, device: str, memory: bool) -> None:
        self.device, self.memory = device, memory
        self.costs: dict[str, float] = {}
        self._open: list[str] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the `with` block for the part `name`, and not for the part that it is within."""
        self.costs.setdefault(name, 0.0)
        if self.memory and self._open:
            yield  # one peak at a time
            return
        self._open.append(name)
        with ExitStack() as stack:
            peak = stack.enter_context(peak_memory(self.device)) if self.memory else [0]
            start = self._now()
            yield
            took = self._now() - start
        self._open.pop()
        self.costs[name] = max(self.costs[name], peak[0] or 0) if self.memory else self.costs[name] + took
        if self._open:
            self.costs[self._open[-1]] -= took

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, counted."""

        def counted(*arguments: Any) -> Any:
            with self.of(name):
                return call(*arguments)

        return counted

    def steps(self, context: Any, side: Tensor) -> Generator[Step, Tensor, Tensor]:
        """The coding loop, counted step by step."""
        steps, q = coding_steps(context, side), None
        for i in itertools.count():
            try:
                with self.of(f"step {i}" if i < context.order.num_steps else "last y_hat"):
                    step = steps.send(q)
            except StopIteration as end:
                self._open.clear()
                return end.value
            q = yield step
        raise AssertionError("a coding loop ends")

    def coder(self, coder: Coder) -> Any:
        """The same coder, counted."""

        def counted(of: Any, *methods: str) -> Any:
            return SimpleNamespace(**{name: self.around("coder", getattr(of, name)) for name in methods})

        return SimpleNamespace(
            name=coder.name,
            encoder=lambda: counted(coder.encoder(), "encode", "finish"),
            decoder=lambda stream: counted(coder.decoder(stream), "decode", "finish"),
        )


def cost_of_parts(model: MambaIC | Released, run: Callable[[], object], device: str, memory: bool) -> dict[str, float]:
    """Run once, with every part measured."""
    parts, codec = Parts(device, memory), model.latent_codec
    with ExitStack() as stack:
        for name, module in (("g_a", model.g_a), ("h_a", codec.h_a), ("h_s", codec.h_s), ("g_s", model.g_s)):
            stack.enter_context(patch.object(module, "forward", parts.around(name, module.forward)))
        for owner, method in ((LatentWriter, "write"), (LatentWriter, "finish"), (LatentReader, "read")):
            stack.enter_context(patch.object(owner, method, _method(parts, getattr(owner, method))))
        stack.enter_context(patch.object(entropy_model, "coding_steps", parts.steps))
        stack.enter_context(patch.object(codec, "coder", parts.coder(codec.coder)))
        start = time.perf_counter()
        run()
        whole = time.perf_counter() - start
    if not memory:
        parts.costs["rest"] = whole - sum(parts.costs.values())
    return parts.costs


def _method(parts: Parts, method: Callable[..., Any]) -> Callable[..., Any]:
    counted = parts.around("symbols", method)
    return lambda self, *arguments: counted(self, *arguments)


def measure(layout: str, preset: str, pixels: Tensor, rounds: int, device: str) -> dict[str, object]:
    """Check the round trip, then measure encoding and decoding."""
    model = make(layout, preset)
    make_realistic(model.to(device), pixels)
    codec = PictureCodec(model)
    coded, y_hat = codec.encode(pixels)
    data = coded.to_bytes()
    strings, sizes = [[string] for string in coded.strings], {"y": coded.y_size, "hyper": coded.z_size}
    # latents, not pixels: these are rounded to whole numbers, which would hide a drift
    if not torch.equal(model.latent_codec.decompress(strings, sizes)["y_hat"], y_hat):
        raise SystemExit(f"not timed: the {layout} layout does not decode to the encoder's own latent")
    codec.decode(CodedPicture.from_bytes(data))
    runs = {
        "encode": lambda: codec.encode(pixels)[0].to_bytes(),
        "decode": lambda: codec.decode(CodedPicture.from_bytes(data)),
    }
    times = seconds(runs, rounds, device, warm=True)
    result: dict[str, object] = {"bytes": len(data), "bpp": 8 * len(data) / pixels[0].numel()}
    for name, run in runs.items():
        with peak_memory(device) as peak:
            before = resident_bytes(device)
            took = cost_of_parts(model, run, device, memory=False)
        needs = cost_of_parts(model, run, device, memory=True)
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


def training_step(layout: str, preset: str, batch: int, crop: int, rounds: int, device: str) -> dict[str, object]:
    """One step of training in float32: forward, backward, both optimisers."""
    model = make(layout, preset).to(device).train()
    adam = {"net": {"type": "Adam", "lr": 1e-4}, "aux": {"type": "Adam", "lr": 1e-3}}
    net, aux = net_aux_optimizer(model, adam).values()
    x = torch.rand(batch, 3, crop, crop, device=device)
    loss_of = RateDistortionLoss(0.0067)

    def run() -> None:
        net.zero_grad(set_to_none=True)
        loss_of(model(x), x)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        net.step()
        aux.zero_grad(set_to_none=True)
        model.aux_loss().backward()
        aux.step()

    times = seconds({"step": run}, rounds, device)
    with peak_memory(device) as peak:
        run()
    return {"batch": batch, "crop": crop, "seconds": times["step"], "peak_bytes": peak[0]}


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
    parser.add_argument("--preset", default="full", choices=PRESETS)
    parser.add_argument("--layouts", nargs="*", default=["paper", "released"], choices=["paper", "released"])
    parser.add_argument("--sizes", nargs="*", type=_pair, default=[(768, 512), (2048, 1363)], metavar="WIDTHxHEIGHT")
    parser.add_argument("--picture", type=Path, help="picture file to code; default noise")
    parser.add_argument("--train", type=_pair, metavar="BATCHxCROP", help="also time a training step")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds; medians are shown")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="also write the figures here; other entries there stay")
    options = parser.parse_args()
    about = machine()
    print(json.dumps(about))
    found: dict[str, object] = {}
    for layout in options.layouts:
        for width, height in options.sizes:
            title = f"{options.preset}, {layout}, {width}x{height}"
            pixels = picture(width, height, options.picture)
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
