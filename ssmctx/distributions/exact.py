"""Functions of float64 with the same bits on every machine, for `Distribution.half_mass`.

IEEE 754 rounds +, -, *, / and sqrt in one way; exp, log and pow differ between mathematical libraries in the last bit.
These are made of the former, in a fixed order; `exp` is right to 2 units in the last place.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

__all__ = ["exp", "gamma", "power"]

_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
_EXP_TERMS, _LOG_TERMS = 14, 12  # the next ones are below half a unit in the last place
_LEAST = 1e-300


def exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """e^x for x from -700 to 700; values outside are clamped.

    Examples:
        >>> import numpy as np
        >>> from ssmctx.distributions.exact import exp
        >>> exp(np.array([0.0, -1.0])).tolist()
        [1.0, 0.36787944117144233]
    """
    x = np.clip(x, -700.0, 700.0)
    halvings = np.rint(x * (1 / (_LN2_HIGH + _LN2_LOW)))
    rest = (x - halvings * _LN2_HIGH) - halvings * _LN2_LOW  # the first product is exact
    total = np.ones_like(rest)
    for k in range(_EXP_TERMS, 0, -1):
        total = 1 + rest / k * total
    result: NDArray[np.float64] = np.ldexp(total, halvings.astype(np.int32))
    return result


def power(x: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """x to the power of a number, for x of 0 or more and an exponent above 0; to some 30 units in the last place.

    Examples:
        >>> import numpy as np
        >>> from ssmctx.distributions.exact import power
        >>> power(np.array([0.0, 4.0]), 1.5).round(12).tolist()
        [0.0, 8.0]
    """
    return np.where(x > 0, exp(exponent * _log(np.maximum(x, _LEAST))), 0.0)


def _log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    mantissa, doublings = np.frexp(x)
    small = mantissa * mantissa < 0.5
    mantissa, doublings = np.where(small, 2 * mantissa, mantissa), doublings - small
    s = (mantissa - 1) / (mantissa + 1)  # log m = 2 artanh s
    square, total = s * s, np.zeros_like(s)
    for k in range(_LOG_TERMS, -1, -1):
        total = total * square + 2 / (2 * k + 1)
    result: NDArray[np.float64] = doublings * _LN2_HIGH + (s * total + doublings * _LN2_LOW)
    return result


def gamma(x: Decimal) -> Decimal:
    r"""The gamma function to 30 digits, for x from 0.1 to 10.

    $$ \Gamma(x) = u^x e^{-u} \sum_{k \ge 0} \frac{u^k}{x (x + 1) \cdots (x + k)} + \Gamma(x, u), \quad u = 100 $$

    of which the last is below 2e-31 of the result.

    Examples:
        >>> from decimal import Decimal
        >>> from ssmctx.distributions.exact import gamma
        >>> float(gamma(Decimal(5)))
        24.0
    """
    with localcontext() as context:
        context.prec = 60
        u = Decimal(100)
        term = total = 1 / x
        for k in range(1, 500):
            term = term * u / (x + k)
            total += term
        # exp and ln are rounded correctly on every machine; decimal does not guarantee this for powers
        return (x * u.ln() - u).exp() * total
