"""What is measured of one picture, whichever codec made it: quality, and the picture at another size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_msssim import ms_ssim
from torch import Tensor

from mambaic.errors import DataError
from mambaic.images import MS_SSIM_MIN_SIDE, as_pillow, psnr, read_image

MAX_PSNR = 100.0


def quality(decoded: Tensor, original: Tensor) -> dict[str, float | None]:
    """PSNR in dB, 100 for equal pixels, and MS-SSIM (None below 161 pixels a side) of uint8 pixels (3, H, W)."""
    structure = None
    if min(original.shape[1:]) >= MS_SSIM_MIN_SIDE:
        structure = ms_ssim(decoded[None].float(), original[None].float(), data_range=255).item()
    return {"psnr-rgb": min(MAX_PSNR, psnr(decoded, original)), "ms-ssim-rgb": structure}


def facts(name: str, pixels: Tensor, size: int) -> dict[str, Any]:
    """Name, size and rate of a picture that takes `size` bytes."""
    _, height, width = pixels.shape
    return {"name": name, "width": width, "height": height, "bytes": size, "bpp": 8 * size / (height * width)}


def read_scaled(path: Path, scale: float) -> Tensor:
    """A picture file as (3, H, W) uint8, made smaller by `scale` (Lanczos).

    Raises:
        DataError: the file is no picture, or nothing is left of it.
    """
    pixels = read_image(path)
    if scale == 1:
        return pixels
    height, width = (round(scale * side) for side in pixels.shape[1:])
    if min(height, width) < 1:
        raise DataError(f"{path} has no pixel left at scale {scale}: choose a larger --scale")
    smaller = as_pillow(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(smaller)).permute(2, 0, 1)
