"""The codec in the layout that MambaIC's authors released."""

from __future__ import annotations

from torch import nn

from ssmctx.codec import ImageCodec
from ssmctx.context.released import ReleasedContext
from ssmctx.entropy.hyper import HyperSynthesis, hyper_analysis
from ssmctx.entropy.model import MambaICEntropyModel
from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_positive
from ssmctx.layers.transforms import analysis_transform, synthesis_transform
from ssmctx.layers.vss import VSSBlock

__all__ = ["ReleasedMambaIC"]


class ReleasedMambaIC(ImageCodec):
    """MambaIC as released: VSS transforms around the entropy model with a `ReleasedContext`.

    The transforms are the paper's. An `ImageCodec`: images of any size, tensors and files.

    Args:
        N: half the width of the transforms.
        M: channels of y.
        depths: VSS blocks of the three stages of g_a and of h_a; g_s and h_s mirror them.
        num_slices: slices of y.
        hyper_channels: channels of z.
        d_state: states of the VSS blocks.

    Raises:
        ArgumentError: M is no multiple of num_slices, depths are not four, or a size is below 1.
        ShapeError: x is no (batch, 3, H, W).

    Source:
        MambaIC section 3.2 and appendix C; the context as in `ReleasedContext`.

    Examples:
        >>> import torch
        >>> from ssmctx.compat.released import ReleasedMambaIC
        >>> model = ReleasedMambaIC(N=8, M=10, depths=(0, 0, 0, 0), num_slices=2, hyper_channels=4, d_state=2).eval()
        >>> _ = model.update()
        >>> coded = model.compress(torch.rand(1, 3, 20, 33))
        >>> model.decompress(coded["strings"], coded["shape"])["x_hat"].shape
        torch.Size([1, 3, 20, 33])
    """

    def __init__(
        self,
        N: int = 128,
        M: int = 320,
        depths: tuple[int, int, int, int] = (2, 2, 9, 2),
        num_slices: int = 5,
        hyper_channels: int = 192,
        d_state: int = 16,
    ) -> None:
        check_positive("ReleasedMambaIC", N=N, M=M)
        if len(depths) != 4 or min(depths) < 0:
            raise ArgumentError(f"ReleasedMambaIC: depths must be four integers of at least 0, got {depths!r}")
        *stages, hyper_depth = depths
        width = 2 * N

        def blocks(stage: int) -> list[nn.Module]:
            return [VSSBlock(width, d_state) for _ in range(stages[stage])]

        super().__init__(
            analysis_transform(width, M, blocks),
            synthesis_transform(width, M, blocks),
            MambaICEntropyModel(
                M,
                hyper_channels=hyper_channels,
                context=ReleasedContext(M, num_slices, d_state),
                h_a=hyper_analysis(M, width, hyper_channels, hyper_depth, d_state),
                h_s=HyperSynthesis(M, width, hyper_channels, hyper_depth, d_state),
            ),
        )
