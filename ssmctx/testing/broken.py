"""The error of a violated law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["LawBroken", "attempt", "difference", "in_brief", "unequal"]

T = TypeVar("T")


class LawBroken(AssertionError):  # noqa: N818 - it says what happened to the law
    """A law of coding is violated.

    Args:
        law: name of the law.
        found: what was found: the step, the element, by how much.
        cause: what usually causes it; may be empty.

    Examples:
        >>> from ssmctx.testing import LawBroken
        >>> print(LawBroken("real bits", "8000 real bits, 7000 estimated", "the estimate forgets z"))
        real bits: 8000 real bits, 7000 estimated
            usual cause: the estimate forgets z
    """

    def __init__(self, law: str, found: str, cause: str = "") -> None:
        super().__init__(law, found, cause)
        self.law, self.found, self.cause = law, found, cause

    def __str__(self) -> str:
        return f"{self.law}: {self.found}" + (f"\n    usual cause: {self.cause}" if self.cause else "")


def in_brief(error: BaseException, width: int = 200) -> str:
    """Type and text of an error on one line, cut to `width` characters."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= width else line[: width - 3] + "..."


def attempt(law: str, what: str, call: Callable[..., T], *arguments: Any, cause: str = "") -> T:
    """call(*arguments); an exception of it is the law, broken.

    Args:
        law: name of the law.
        what: the call in words, as messages say it.
        call: what to call.
        arguments: with what.
        cause: what usually causes an exception here.

    Raises:
        LawBroken: the call raised.
    """
    try:
        return call(*arguments)
    except LawBroken:
        raise
    except Exception as error:
        raise LawBroken(law, f"{what} raised {in_brief(error)}", cause) from error


def unequal(actual: Tensor, expected: Tensor, tolerance: float = 0.0) -> Tensor:
    """Which elements differ by more than `tolerance`; two NaN are equal, a NaN and a number are not."""
    apart = (actual - expected).abs()
    return ~((actual == expected) | (apart <= tolerance) | (actual.isnan() & expected.isnan()))


def difference(actual: Tensor, expected: Tensor, tolerance: float = 0.0) -> str | None:
    """How two tensors differ, in words, or None where they do not.

    Args:
        actual: one.
        expected: the other.
        tolerance: largest accepted absolute difference.

    Examples:
        >>> import torch
        >>> from ssmctx.testing.broken import difference
        >>> difference(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 2.5, 3.0]]))
        'element [0, 1] is 2 instead of 2.5; 1 of 3 elements differ, by up to 0.5'
    """
    if actual.shape != expected.shape:
        return f"shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    if actual.dtype != expected.dtype:
        return f"{actual.dtype} instead of {expected.dtype}"
    apart = unequal(actual, expected, tolerance)
    if not bool(apart.any()):
        return None
    index = apart.nonzero()[0].tolist()
    here, there = (x[tuple(index)].item() for x in (actual, expected))
    largest = (actual - expected).abs()[apart].nan_to_num(torch.inf, torch.inf).max().item()
    return (
        f"element {index} is {here:.9g} instead of {there:.9g}; "
        f"{int(apart.sum())} of {apart.numel()} elements differ, by up to {largest:.3g}"
    )
