"""The codec in the layout that MambaIC's authors released."""

from __future__ import annotations

from typing import Any

from compressai.models import SimpleVAECompressionModel
from torch import Tensor, nn

from ssmctx.context.released import ReleasedContext
from ssmctx.entropy.hyper import HyperSynthesis, hyper_analysis
from ssmctx.entropy.model import MambaICEntropyModel
from ssmctx.errors import ArgumentError
from ssmctx.layers.checks import check_image, check_positive
from ssmctx.layers.transforms import analysis_transform, pad_image, synthesis_transform
from ssmctx.layers.vss import VSSBlock

__all__ = ["ReleasedMambaIC"]


class ReleasedMambaIC(SimpleVAECompressionModel):  # type: ignore[misc]  # compressai carries no types
    """MambaIC as released: VSS transforms around the entropy model with a `ReleasedContext`.

    The transforms are the paper's. Pictures of any size are padded by their last row and column to multiples of 16 and
    cropped again; of multiples of 16, nothing is added.

    Args:
        N: half the width of the transforms.
        M: channels of y.
        depths: VSS blocks of the three stages of g_a and of h_a; g_s and h_s mirror them.
        num_slices: slices of y.
        hyper_channels: channels of z.
        d_state: states of the VSS blocks.

    Shape:
        forward: (batch, 3, H, W) in [0, 1], any H and W of at least 1, to "x_hat" of the same shape and "likelihoods".

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
        super().__init__()
        check_positive("ReleasedMambaIC", N=N, M=M)
        if len(depths) != 4 or min(depths) < 0:
            raise ArgumentError(f"ReleasedMambaIC: depths must be four whole numbers of at least 0, got {depths!r}")
        *stages, hyper_depth = depths
        width = 2 * N

        def blocks(stage: int) -> list[nn.Module]:
            return [VSSBlock(width, d_state) for _ in range(stages[stage])]

        self.g_a = analysis_transform(width, M, blocks)
        self.g_s = synthesis_transform(width, M, blocks)
        self.latent_codec = MambaICEntropyModel(
            M,
            hyper_channels=hyper_channels,
            context=ReleasedContext(M, num_slices, d_state),
            h_a=hyper_analysis(M, width, hyper_channels, hyper_depth, d_state),
            h_s=HyperSynthesis(M, width, hyper_channels, hyper_depth, d_state),
        )

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Reconstruct x and estimate its rate; x_hat is not clamped."""
        out: dict[str, Any] = super().forward(_pad(x))
        return {**out, "x_hat": out["x_hat"][..., : x.shape[2], : x.shape[3]]}

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Code x: what `MambaICEntropyModel.compress` gives, and the size of x as "x" in "shape"."""
        out: dict[str, Any] = super().compress(_pad(x))
        return {**out, "shape": {**out["shape"], "x": (x.shape[2], x.shape[3])}}

    def decompress(self, strings: Any, shape: dict[str, Any]) -> dict[str, Any]:
        """The picture "x_hat" in [0, 1], cropped to shape["x"] where that is given."""
        x_hat: Tensor = super().decompress(strings, shape)["x_hat"]
        height, width = shape.get("x", x_hat.shape[2:])
        return {"x_hat": x_hat[..., :height, :width]}


def _pad(x: Tensor) -> Tensor:
    check_image("ReleasedMambaIC", x, 3)
    return pad_image(x)
