"""Checks of the arguments of layers."""

from __future__ import annotations

from numbers import Integral

from torch import Tensor

from ssmctx.errors import ArgumentError, ShapeError

__all__ = ["check_image", "check_positive"]


def check_image(owner: str, x: Tensor, channels: int, name: str = "x") -> None:
    """Raise ShapeError unless x is (batch, channels, H, W) with every size at least 1."""
    if x.dim() != 4 or x.shape[1] != channels or x.numel() == 0:
        raise ShapeError(
            f"{owner} expects {name} (batch, {channels}, H, W), every size at least 1, got {tuple(x.shape)}"
        )


def check_positive(owner: str, **sizes: int) -> None:
    """Raise ArgumentError unless every size is an integer of at least 1, of Python or of numpy, and no bool."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ArgumentError(f"{owner}: {name} must be an integer of at least 1, got {value!r}")
