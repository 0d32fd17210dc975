"""A lower bound that values can be trained away from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LowerBound"]


class LowerBound(nn.Module):
    r"""max(x, bound), with a gradient that lets values below the bound rise.

    $$ \frac{\partial L}{\partial x} = g \; \text{ if } x \ge b \text{ or } g < 0, \text{ else } 0, \qquad
    g = \frac{\partial L}{\partial \max(x, b)} $$

    Args:
        bound: the least value, kept in a buffer of that name, of shape (1,).

    Source:
        CompressAI's `compressai.ops.LowerBound`, after TensorFlow Compression's `lower_bound`.

    Examples:
        >>> import torch
        >>> from ssmctx.entropy.lower_bound import LowerBound
        >>> x = torch.tensor([0.05, 0.5], requires_grad=True)
        >>> y = LowerBound(0.11)(x)
        >>> (-y).sum().backward()  # a step down this gradient raises x
        >>> y.tolist(), x.grad.tolist()
        ([0.10999999940395355, 0.5], [-1.0, -1.0])
    """

    bound: Tensor

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([float(bound)], dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """The larger of x and the bound, of x's shape."""
        bounded: Tensor = _LowerBound.apply(x, self.bound)
        return bounded


class _LowerBound(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bound: Tensor) -> Tensor:
        return torch.maximum(x, bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x, bound = ctx.saved_tensors
        return torch.where((x >= bound) | (grad < 0), grad, 0.0), None
