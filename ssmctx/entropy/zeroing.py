"""Rounding with an eye on the rate: small symbols become zero where that saves more than it costs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssmctx.distributions import Distribution

__all__ = ["ZEROINGS", "rounded"]

ZEROINGS = (0.0, 0.2, 0.4)
"""Values of `zeroing` for an encoder to choose from: 0.4 pays at low rates, 0 at high ones."""

_ERROR_PER_BIT = math.log(2) / 6


def rounded(residual: Tensor, scale: Tensor, distribution: Distribution, zeroing: float) -> Tensor:
    r"""Residuals as integers: the nearest, or 0 in place of 1 and -1 where the bits are worth it.

    $$ q = 0 \;\text{where}\; |\lfloor r \rceil| = 1 \;\text{and}\;
    r^2 - (r - \lfloor r \rceil)^2 < \mathrm{zeroing} \cdot \tfrac{\ln 2}{6} \log_2 \frac{P(0)}{P(\lfloor r \rceil)} $$

    At high rate a quantisation step of 1 makes a squared error of 1/12, and one more bit per element a quarter of that:
    there a bit is worth ln 2 / 6 of squared error. Errors towards zero add up over elements, so less than that pays.
    Only the encoder rounds; decoder and format do not change.

    Args:
        residual: r, in quantisation steps, any shape.
        scale: of the distribution, of the same shape.
        distribution: what the coder's tables are made of.
        zeroing: worth of a bit, in parts of the above; 0 for the nearest integer, 0.2 to 0.4 are good values.

    Returns:
        q, integers of residual's dtype and shape.

    Source:
        Rate-distortion optimised quantisation of video coders (Karczewicz et al., 2008), for symbols of magnitude 1.

    Examples:
        >>> import torch
        >>> from ssmctx.distributions import Laplace
        >>> from ssmctx.entropy.zeroing import rounded
        >>> r = torch.tensor([0.2, 0.55, 0.8, -0.55, 1.6])
        >>> rounded(r, torch.full_like(r, 0.3), Laplace(), 0.4)
        tensor([0., 0., 1., 0., 2.])
    """
    q = torch.round(residual)
    zero, one = (distribution.likelihood(x, scale).log2() for x in (torch.zeros_like(q), torch.ones_like(q)))
    more_error = residual.square() - (residual - q).square()
    return q.masked_fill((q.abs() == 1) & (more_error < zeroing * _ERROR_PER_BIT * (zero - one)), 0)
