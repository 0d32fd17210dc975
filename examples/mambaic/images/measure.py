"""What is measured of one image, whichever codec made it: rate and quality."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_PSNR = 100.0
MS_SSIM_MIN_SIDE = 161  # five scales of an 11x11 window


def bits_per_pixel(size: int, height: int, width: int) -> float:
    """Rate of an image that takes `size` bytes."""
    return 8 * size / (height * width)


def psnr(decoded: Tensor, original: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 pixels, in dB; infinite for equal ones."""
    mse = (decoded.double() - original.double()).square().mean()
    return float(10 * torch.log10(255**2 / mse))


def quality(decoded: Tensor, original: Tensor) -> dict[str, float | None]:
    """PSNR in dB, 100 for equal pixels, and MS-SSIM (None below 161 pixels a side) of uint8 pixels (3, H, W)."""
    from pytorch_msssim import ms_ssim  # of the extra: PSNR and coding do without

    structure = None
    if min(original.shape[1:]) >= MS_SSIM_MIN_SIDE:
        structure = ms_ssim(decoded[None].float(), original[None].float(), data_range=255).item()
    return {"psnr-rgb": min(MAX_PSNR, psnr(decoded, original)), "ms-ssim-rgb": structure}


def facts(name: str, pixels: Tensor, size: int) -> dict[str, Any]:
    """Name, size and rate of an image that takes `size` bytes."""
    _, height, width = pixels.shape
    return {"name": name, "width": width, "height": height, "bytes": size, "bpp": bits_per_pixel(size, height, width)}
