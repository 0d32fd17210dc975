"""From what a user writes to a distribution."""

from __future__ import annotations

from ssmctx.distributions.base import Distribution
from ssmctx.errors import ArgumentError
from ssmctx.registry import distributions

__all__ = ["resolve_distribution"]


def resolve_distribution(distribution: str | Distribution) -> Distribution:
    """The distribution of a name, made with its defaults, or the object itself.

    Args:
        distribution: a name from `ssmctx.registry.distributions`, or a `Distribution`.

    Raises:
        UnknownNameError: no such name.
        ArgumentError: neither a name nor a `Distribution`, or what is registered makes none.

    Examples:
        >>> from ssmctx.distributions import resolve_distribution
        >>> resolve_distribution("laplace")
        Laplace(grid=ScaleGrid(minimum=0.11, maximum=256.0, levels=64))
    """
    if isinstance(distribution, str):
        made = distributions.create(distribution)
        if not isinstance(made, Distribution):
            raise ArgumentError(
                f"what is registered as distribution {distribution!r} must make a Distribution, got {made!r}"
            )
        return made
    if not isinstance(distribution, Distribution):
        raise ArgumentError(
            f"distribution must be a name ({', '.join(distributions.names())}) or an object of a class derived from "
            f"ssmctx.distributions.Distribution, got {distribution!r}"
        )
    return distribution
