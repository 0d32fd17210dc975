"""What training minimises: lambda * distortion + rate."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pytorch_msssim import ms_ssim
from torch import Tensor


class Losses(NamedTuple):
    """What is minimised, the loss lambda * distortion + rate, and its rate in bits per pixel; means over images."""

    objective: Tensor
    loss: Tensor
    bpp: Tensor


def rate_distortion(
    out: dict[str, Any], x: Tensor, lmbda: float | Tensor, metric: str, weight: float | Tensor = 1.0
) -> Losses:
    r"""lambda * 255^2 * MSE + bpp, or lambda * (1 - MS-SSIM) + bpp.

    Args:
        out: of the codec: "x_hat" (batch, 3, H, W) and "likelihoods".
        x: images (batch, 3, H, W) in [0, 1].
        lmbda: weight of the distortion; one, or one for each image, (batch,).
        metric: "mse" or "ms-ssim".
        weight: of each image in what is minimised, likewise.
    """
    bits = sum(p.log().flatten(1).sum(1) for p in out["likelihoods"].values()) / -math.log(2)
    bpp = bits / (x.shape[2] * x.shape[3])
    x_hat = out["x_hat"]
    if metric == "mse":
        distortion = 255**2 * (x_hat - x).square().flatten(1).mean(1)
    else:
        distortion = 1 - ms_ssim(x_hat, x, data_range=1, size_average=False)
    losses = lmbda * distortion + bpp
    return Losses((weight * losses).mean(), losses.mean(), bpp.mean())
