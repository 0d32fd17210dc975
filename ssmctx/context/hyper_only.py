"""No context at all: mean and scale as the hyperprior gives them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssmctx.context.base import ContextModel
from ssmctx.context.order import CodingOrder
from ssmctx.layers.checks import check_positive

__all__ = ["HyperOnlyContext"]


class HyperOnlyContext(ContextModel):
    """The mean-scale hyperprior as a context model: one step, and the two halves of the side information.

    Args:
        M: channels of the latent.

    Source:
        Minnen et al., 2018, without autoregression; MambaIC table 2, without the context model.

    Examples:
        >>> import torch
        >>> from ssmctx.context.hyper_only import HyperOnlyContext
        >>> mean, scale = HyperOnlyContext(6)(0, torch.zeros(1, 6, 2, 3), torch.randn(1, 12, 2, 3))
        >>> mean.shape
        torch.Size([1, 6, 2, 3])
    """

    def __init__(self, M: int = 320) -> None:
        check_positive("HyperOnlyContext", M=M)
        super().__init__(CodingOrder.one_pass([M]))

    def scales(self, side: Tensor, state: Any = None) -> Tensor:
        """The second half of the side information; see `ContextModel.scales`."""
        return side.chunk(2, dim=1)[1]

    def forward(self, step: int, y_hat: Tensor, side: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        """Mean and scale of the whole latent; see `ContextModel.forward`."""
        self.check_inputs(y_hat, side)
        mean, scale = side.chunk(2, dim=1)
        return mean, scale
