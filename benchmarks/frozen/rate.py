"""What a trained context is worth: real bytes on the test images, what it computes, and how long that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from measure import seconds
from torch import Tensor
from tqdm import tqdm

from frozen.latents import Latents
from frozen.model import HYPER_CHANNELS, FrozenModel
from ssmctx import MambaICEntropyModel, profile
from ssmctx.entropy.steps import Step, coding_steps, drive
from ssmctx.testing import DRIFTS, largest_drift


@torch.no_grad()
def real_bytes(model: FrozenModel, latents: Latents) -> dict[str, Any]:
    """Bytes of y and z of each test image, bits per pixel of all, and what the likelihoods say."""
    model.eval().update()
    images, said = {}, 0.0
    for name, y, pixels in zip(latents.names, latents.test, latents.pixels, strict=True):
        values = y[None].float()
        y_stream, z_stream = model.encode(values)
        images[name] = {"y": len(y_stream), "z": len(z_stream), "pixels": pixels}
        said += float(sum(model(values))) / pixels
    rates = [8 * (image["y"] + image["z"]) / image["pixels"] for image in images.values()]
    return {"bpp": sum(rates) / len(rates), "estimated_bpp": said / len(rates), "images": images}


def cost(model: FrozenModel, size: tuple[int, int]) -> dict[str, int]:
    """Parameters of context and scale network, and their multiply-adds for a latent of this height and width."""
    scales = None if model.scale_network is None else "float"
    whole = MambaICEntropyModel(model.M, hyper_channels=HYPER_CHANNELS, context=model.context, scales=scales)
    parts = [part for part in profile(whole, size) if part.name in ("context", "scale_network")]
    return {name: sum(getattr(part, name) for part in parts) for name in ("parameters", "multiply_adds")}


@torch.no_grad()
def times(models: dict[Path, FrozenModel], latents: Latents, rounds: int) -> dict[Path, dict[str, float | None]]:
    """Seconds of decompression of the first test image and of its coding loop, all models in turns.

    The loop of a context whose model has a scale network tells too little, and is left out.
    """
    y = latents.test[0][None].float()
    runs = {}
    for name, model in tqdm(models.items(), "compressing once"):
        side, *_ = model.eval().estimate_side(y, None)
        codec = _codec(model)
        coded = codec.compress(y)
        if model.scale_network is None:
            runs[f"{name}|loop"] = lambda model=model, side=side: _loop(model, side, y)
        runs[f"{name}|decode"] = lambda codec=codec, coded=coded: codec.decompress(coded["strings"], coded["shape"])
    taken = seconds(runs, rounds, "cpu")
    return {name: {what: taken.get(f"{name}|{what}") for what in ("loop", "decode")} for name in models}


@torch.no_grad()
def drift(model: FrozenModel, latents: Latents) -> dict[str, int]:
    """Of how many test images the symbols stay the same where every number in the decoder is off by as much."""
    codec, counts = _codec(model.eval()), dict.fromkeys(map(str, DRIFTS[1:]), 0)
    for y in tqdm(latents.test, "drifting"):
        largest = largest_drift(codec, y[None].float(), DRIFTS[1:])
        for tried in DRIFTS[1:]:
            counts[str(tried)] += largest is not None and tried <= largest
    return counts


def _loop(model: FrozenModel, side: Tensor, y: Tensor) -> None:
    def residual(step: Step) -> Tensor:
        return step.residual(y)

    drive(coding_steps(model.context, side), residual)


def _codec(model: FrozenModel) -> MambaICEntropyModel:
    """The library's own entropy model with these parts, whose symbols are round(y - mean)."""
    codec = MambaICEntropyModel(
        model.M,
        hyper_channels=HYPER_CHANNELS,
        context=model.context,
        h_a=model.h_a,
        h_s=model.h_s,
        distribution=model.distribution,
        scales=model.scale_network,
    )
    codec.entropy_bottleneck.load_state_dict(model.entropy_bottleneck.state_dict())
    codec.update()
    return codec.eval()
