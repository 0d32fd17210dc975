"""A convolution that reads only the other colour of the checkerboard."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_image, check_positive

__all__ = ["CheckerboardConv2d", "checkerboard_taps"]


def checkerboard_taps(kernel_size: int, device: torch.device | str | None = None) -> Tensor:
    """Boolean (kernel_size, kernel_size): the taps at an odd distance, rows plus columns, from the centre.

    Args:
        kernel_size: side of the kernel, odd.
        device: of the result; None is torch's default device.

    Raises:
        ArgumentError: the kernel has an even side, and so no centre.

    Examples:
        >>> from ssmctx.layers.checkerboard import checkerboard_taps
        >>> checkerboard_taps(3).int().tolist()
        [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    _check_odd("checkerboard_taps", kernel_size)
    tap = torch.arange(kernel_size, device=device)
    return (tap[:, None] + tap) % 2 == 1


class CheckerboardConv2d(nn.Conv2d):
    r"""Convolution whose taps at an even distance from the centre are left out, the centre among them.

    $$ o_p = b + \sum_{\Delta:\ \Delta_r + \Delta_c\ \mathrm{odd}} W_\Delta\, x_{p + \Delta} $$

    So non-anchors are predicted from anchors, and a position never sees itself.

    Args:
        in_channels: channels of x (batch, in_channels, H, W), of any H and W of at least 1.
        out_channels: channels of the result (batch, out_channels, H, W).
        kernel_size: side of the kernel, odd.

    Raises:
        ArgumentError: the kernel has an even side, or a size is below 1.
        ShapeError: x has another number of channels, or an empty side.

    Source:
        He et al., 2021 (checkerboard context); as MambaIC's released layout has it.

    Examples:
        >>> import torch
        >>> from ssmctx.layers.checkerboard import CheckerboardConv2d
        >>> CheckerboardConv2d(4, 8)(torch.randn(1, 4, 3, 7)).shape
        torch.Size([1, 8, 3, 7])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 5) -> None:
        owner = "CheckerboardConv2d"
        check_positive(owner, in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size)
        _check_odd(owner, kernel_size)
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution to x, (batch, in_channels, H, W)."""
        check_image("CheckerboardConv2d", x, self.in_channels)
        taps = checkerboard_taps(self.kernel_size[0], x.device)
        return F.conv2d(x, self.weight.where(taps, 0), self.bias, padding=self.padding)


def _check_odd(owner: str, kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise ArgumentError(f"{owner}: kernel_size must be odd, got {kernel_size}")
