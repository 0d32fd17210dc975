"""Rounding with gradients, for latents that are optimised."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ssmctx.entropy.hyperprior import Rounding
from ssmctx.errors import ArgumentError

__all__ = ["Estimate", "estimate_latent", "soft_rounding"]


class Estimate(NamedTuple):
    """Rate and distortion of the images of a batch.

    Attributes:
        bits: (batch,).
        mse: mean squared error of values 0 to 255, (batch,).
    """

    bits: Tensor
    mse: Tensor


def soft_rounding(slope: float) -> Rounding:
    r"""Rounding with a slope: near the identity for small ones, near `torch.round` for large ones.

    $$ s(x) = m + \frac{\tanh(\alpha (x - m))}{2 \tanh(\alpha / 2)}, \quad m = \lfloor x \rfloor + \tfrac12 $$

    Integers and halves are fixed points.

    Args:
        slope: alpha, above 0.

    Returns:
        The function s, elementwise on tensors.

    Raises:
        ArgumentError: the slope is not above 0.

    Source:
        Agustsson and Theis, Universally quantized neural compression, 2020, equation 15.

    Examples:
        >>> import torch
        >>> from ssmctx.codec.rounding import soft_rounding
        >>> x = torch.tensor([1.0, 1.25, 1.5])
        >>> [[round(v, 2) for v in soft_rounding(slope)(x).tolist()] for slope in (0.1, 5, 100)]
        [[1.0, 1.25, 1.5], [1.0, 1.07, 1.5], [1.0, 1.0, 1.5]]
    """
    if not 0 < slope < math.inf:
        raise ArgumentError(f"soft_rounding: slope must be a number above 0, got {slope!r}")
    return functools.partial(_soft_round, slope=slope)


def _soft_round(x: Tensor, slope: float) -> Tensor:
    middle = torch.floor(x).detach() + 0.5
    return middle + torch.tanh(slope * (x - middle)) / (2 * math.tanh(slope / 2))


def estimate_latent(
    latent_codec: Any, y: Tensor, options: Mapping[str, Any], rounding: Rounding | None
) -> dict[str, Any]:
    """y_hat and likelihoods of any latent codec, with another rounding where one is given.

    A latent codec with a method `estimate(y, rounding=...)`, such as `MambaICEntropyModel`, is asked. In the forward
    pass of any other, in evaluation mode, `torch.round` is that rounding: CompressAI's quantise with it.
    """
    if hasattr(latent_codec, "estimate"):
        asked: dict[str, Any] = latent_codec.estimate(y, rounding=rounding, **options)
        return asked
    with nullcontext() if rounding is None else _Rounding(rounding):
        out: dict[str, Any] = latent_codec(y, **options)
    return out


class _Rounding(TorchFunctionMode):
    """Another rounding instead of torch's, in this thread."""

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self.rounding = rounding

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.round, Tensor.round) and len(args) == 1 and not kwargs:
            return self.rounding(args[0])
        return func(*args, **(kwargs or {}))
