"""What training minimises: lambda * distortion + rate."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pytorch_msssim import ms_ssim
from torch import Tensor
from torch.nn import functional as F


class Losses(NamedTuple):
    """The loss, and its rate in bits per pixel."""

    loss: Tensor
    bpp: Tensor


def rate_distortion(out: dict[str, Any], x: Tensor, lmbda: float, metric: str) -> Losses:
    r"""lambda * 255^2 * MSE + bpp, or lambda * (1 - MS-SSIM) + bpp.

    Args:
        out: of the codec: "x_hat" (batch, 3, H, W) and "likelihoods".
        x: images (batch, 3, H, W) in [0, 1].
        lmbda: weight of the distortion.
        metric: "mse" or "ms-ssim".
    """
    bits = sum(p.log().sum() for p in out["likelihoods"].values()) / -math.log(2)
    bpp = bits / (len(x) * x.shape[2] * x.shape[3])
    x_hat = out["x_hat"]
    distortion = 255**2 * F.mse_loss(x_hat, x) if metric == "mse" else 1 - ms_ssim(x_hat, x, data_range=1)
    return Losses(lmbda * distortion + bpp, bpp)
