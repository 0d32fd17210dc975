"""What a trained context is worth: real bytes on the test images, what it computes, and how long that takes."""

from __future__ import annotations

from typing import Any

import torch
from measure import seconds
from torch import Tensor
from tqdm import tqdm

from frozen.latents import Latents
from frozen.model import HYPER_CHANNELS, FrozenModel
from ssmctx import ContextModel, MambaICEntropyModel, profile
from ssmctx.entropy.steps import Step, coding_steps, drive


@torch.no_grad()
def real_bytes(model: FrozenModel, latents: Latents) -> dict[str, Any]:
    """Bytes of y and z of each test image, bits per pixel of all, and what the likelihoods say."""
    kept = model.scale_network is not None
    model.eval().entropy_bottleneck.update(force=True, update_quantiles=True, keep_medians=kept)
    images, said = {}, 0.0
    for name, y, pixels in zip(latents.names, latents.test, latents.pixels, strict=True):
        values = y[None].float()
        y_stream, z_stream = model.encode(values)
        images[name] = {"y": len(y_stream), "z": len(z_stream), "pixels": pixels}
        said += float(sum(model(values))) / pixels
    rates = [8 * (image["y"] + image["z"]) / image["pixels"] for image in images.values()]
    return {"bpp": sum(rates) / len(rates), "estimated_bpp": said / len(rates), "images": images}


def cost(context: ContextModel, size: tuple[int, int]) -> dict[str, int]:
    """Parameters, and multiply-adds for a latent of this height and width."""
    parts = {
        part.name: part for part in profile(MambaICEntropyModel(context.order.num_channels, context=context), size)
    }
    return {"parameters": parts["context"].parameters, "multiply_adds": parts["context"].multiply_adds}


@torch.no_grad()
def times(models: dict[str, FrozenModel], latents: Latents, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of the coding loop and of decompression on the first test image, all models in turns."""
    y = latents.test[0][None].float()
    runs = {}
    for name, model in tqdm(models.items(), "compressing once"):
        side, *_ = model.eval().estimate_side(y, None)
        codec = _codec(model)
        coded = codec.compress(y)
        runs[f"{name}|loop"] = lambda model=model, side=side: _loop(model, side, y)
        runs[f"{name}|decode"] = lambda codec=codec, coded=coded: codec.decompress(coded["strings"], coded["shape"])
    taken = seconds(runs, rounds, "cpu")
    return {name: {what: taken[f"{name}|{what}"] for what in ("loop", "decode")} for name in models}


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
