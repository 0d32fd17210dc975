"""Deconvolutions that are fast on a GPU where kernels must be deterministic, as in coding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Deconv2d"]


class Deconv2d(nn.ConvTranspose2d):
    r"""`torch.nn.ConvTranspose2d`: the same weights, the same result within rounding.

    cuDNN's deterministic float32 kernels are slow: for stride 2 and 256 channels on an H200 they take five times as
    long as a product of matrices, whose columns are then added up in order. Where deterministic kernels are asked for,
    as in coding, it is computed in that way.

    $$ \hat x = \mathrm{fold}(W^\top x) + b $$

    Args:
        in_channels: channels of the input; all arguments are those of `torch.nn.ConvTranspose2d`.
        out_channels: channels of the output.
        kernel_size: side of the kernel, or height and width.
        stride: output cells per input cell, along each side.
        padding: rows and columns of the whole output that are cut off, at each side.
        output_padding: of which so many at the end are kept.

    Examples:
        >>> import torch
        >>> from ssmctx.layers.deconvolution import Deconv2d
        >>> Deconv2d(5, 3, 3, stride=2, padding=1, output_padding=1)(torch.zeros(1, 5, 4, 6)).shape
        torch.Size([1, 3, 8, 12])
    """

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The deconvolution of x.

        Args:
            x: (batch, in_channels, H, W), or without the batch.
            output_size: height and width of the output, where they are to be chosen among those of the stride.

        Returns:
            (batch, out_channels, H', W'), as torch's.
        """
        simple = self.groups == 1 and self.dilation == (1, 1) and x.dim() == 4 and output_size is None
        if simple and _deterministic_cuda(x):
            return folded(self, x)
        return super().forward(x, None if output_size is None else list(output_size))


def folded(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """The deconvolution of x (batch, C, H, W) as a product for all taps of the kernel, whose columns are added up."""
    columns = layer.weight.flatten(1).t() @ x.flatten(2)
    padding: Any = layer.padding  # two numbers: a name, such as "same", is for convolutions
    along = zip(x.shape[2:], layer.stride, padding, layer.kernel_size, layer.output_padding, strict=True)
    height, width = ((cells - 1) * stride - 2 * pad + taps + more for cells, stride, pad, taps, more in along)
    y = F.fold(columns, (height, width), layer.kernel_size, padding=padding, stride=layer.stride)
    return y if layer.bias is None else y + layer.bias[:, None, None]


def _deterministic_cuda(x: Tensor) -> bool:
    return x.is_cuda and x.dtype == torch.float32 and torch.backends.cudnn.deterministic
