"""Images in the forms that users pass."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmctx.errors import ArgumentError, ShapeError

__all__ = ["Image", "as_pixels"]

Image = Tensor | NDArray[np.uint8]
"""uint8, a tensor (3, H, W) or an array (H, W, 3)."""


def as_pixels(image: Image) -> Tensor:
    """The image as uint8 (3, H, W).

    Raises:
        ShapeError: another shape.
        ArgumentError: another dtype.
    """
    given = image
    if getattr(image, "ndim", 0) == 3 and str(image.dtype).removeprefix("torch.") != "uint8":
        raise ArgumentError(f"an image to encode has uint8 values, 0 to 255, got {image.dtype}: round and convert it")
    if isinstance(image, np.ndarray) and image.ndim == 3:
        image = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)  # torch takes no mirrored views
    if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ShapeError(
            f"an image is a uint8 tensor (3, H, W) or a uint8 array (H, W, 3), got {type(given).__name__} of shape "
            f"{tuple(getattr(given, 'shape', ()))}; of a PIL image, numpy.asarray(image.convert('RGB'))"
        )
    return image
