"""The hyper-transforms h_a and h_s of MambaIC."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssmctx.layers.deconvolution import Deconv2d
from ssmctx.layers.foundation import foundation_block

__all__ = ["HyperSynthesis", "hyper_analysis"]


def hyper_analysis(
    M: int, width: int, hyper_channels: int, depth: int = 2, d_state: int = 16, block: str = "vss"
) -> nn.Sequential:
    """h_a: y (batch, M, H, W) to z (batch, hyper_channels, ceil(H / 4), ceil(W / 4)).

    Args:
        M: channels of y.
        width: channels between the two strided convolutions (2N in the paper).
        hyper_channels: channels of z.
        depth: blocks between them.
        d_state: states of VSS blocks.
        block: a name from `ssmctx.registry.blocks`.

    Returns:
        Convolution, blocks, convolution.

    Raises:
        UnknownNameError: an unknown block.

    Source:
        MambaIC section 3.2 and appendix C.

    Examples:
        >>> import torch
        >>> from ssmctx.entropy.hyper import hyper_analysis
        >>> hyper_analysis(M=6, width=8, hyper_channels=4, depth=1)(torch.randn(1, 6, 9, 16)).shape
        torch.Size([1, 4, 3, 4])
    """
    return nn.Sequential(
        nn.Conv2d(M, width, 3, stride=2, padding=1),
        *(foundation_block(block, width, d_state) for _ in range(depth)),
        nn.Conv2d(width, hyper_channels, 3, stride=2, padding=1),
    )


class HyperSynthesis(nn.Module):
    """h_s: z_hat to side information, two mirrored stacks (means and scales) of the same shape.

    Args:
        M: channels of y; the side information is (batch, 2M, 4h, 4w).
        width: channels between the two deconvolutions (2N in the paper).
        hyper_channels: channels of z_hat (batch, hyper_channels, h, w).
        depth: blocks between them.
        d_state: states of VSS blocks.
        block: a name from `ssmctx.registry.blocks`.
        means_only: leave out the stack of scales, and give zeros instead; for contexts that predict means only.

    Raises:
        UnknownNameError: an unknown block.

    Source:
        MambaIC section 3.2 and appendix C.

    Examples:
        >>> import torch
        >>> from ssmctx.entropy import HyperSynthesis
        >>> HyperSynthesis(M=6, width=8, hyper_channels=4, depth=1)(torch.randn(1, 4, 3, 4)).shape
        torch.Size([1, 12, 12, 16])
    """

    def __init__(
        self,
        M: int,
        width: int,
        hyper_channels: int,
        depth: int = 2,
        d_state: int = 16,
        block: str = "vss",
        means_only: bool = False,
    ) -> None:
        super().__init__()

        def stack() -> nn.Sequential:
            return nn.Sequential(
                Deconv2d(hyper_channels, width, 3, stride=2, padding=1, output_padding=1),
                *(foundation_block(block, width, d_state) for _ in range(depth)),
                Deconv2d(width, M, 3, stride=2, padding=1, output_padding=1),
            )

        self.means = stack()
        self.scales = None if means_only else stack()

    def forward(self, z_hat: Tensor) -> Tensor:
        """Side information (batch, 2M, 4h, 4w), means before scales, of z_hat (batch, hyper_channels, h, w)."""
        means = self.means(z_hat)
        return torch.cat([means, torch.zeros_like(means) if self.scales is None else self.scales(z_hat)], dim=1)
