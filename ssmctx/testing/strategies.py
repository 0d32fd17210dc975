"""Hypothesis strategies for the laws' inputs; needs hypothesis (`pip install 'ssmctx[test]'`).

Each draws integers and names into a case of `ssmctx.testing.cases`, so that what hypothesis prints is one line
to replay. The defaults are the widest domains that the laws promise; arguments narrow them.

Examples:
    >>> from hypothesis import given
    >>> from ssmctx import MambaICEntropyModel
    >>> from ssmctx.testing import assert_round_trip, update_tables
    >>> from ssmctx.testing.strategies import latents, law_settings
    >>> model = MambaICEntropyModel(M=4, num_slices=2, hyper_channels=4, N=2).eval()
    >>> update_tables(model)
    >>> @law_settings()
    ... @given(latents(channels=4, largest=3))
    ... def law(case):
    ...     assert_round_trip(model, case.tensor())
    >>> law()
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from ssmctx.errors import ArgumentError
from ssmctx.scan.directions import DIRECTIONS
from ssmctx.testing.cases import CORRUPTIONS, LATENTS, Corruption, Image, Latent, ScanCase

__all__ = [
    "PROFILES",
    "corruptions",
    "images",
    "latents",
    "law_settings",
    "scan_cases",
    "seeds",
    "sizes",
    "slicings",
    "steps",
]

PROFILES = {"dev": 5, "ci": 20, "nightly": 1000}
"""Examples per property."""

_VARIABLE = "SSMCTX_TESTING_PROFILE"
_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)  # explaining runs a failing codec many times more

for _name, _examples in PROFILES.items():
    settings.register_profile(
        f"ssmctx-{_name}",
        max_examples=_examples,
        deadline=None,
        derandomize=_name != "nightly",
        suppress_health_check=_QUIET,
        phases=_PHASES,
    )


def law_settings() -> settings:
    """Settings for a property over codecs.

    The environment variable SSMCTX_TESTING_PROFILE picks a profile of `PROFILES`: dev, ci or nightly. Without it the
    profile that hypothesis has loaded applies (`--hypothesis-profile=ssmctx-nightly`, or one of your own), but for its
    deadline, health checks and phases.

    Raises:
        ArgumentError: the variable names no profile.

    Examples:
        >>> import os
        >>> from ssmctx.testing.strategies import law_settings
        >>> os.environ["SSMCTX_TESTING_PROFILE"] = "dev"
        >>> law_settings().max_examples
        5
        >>> del os.environ["SSMCTX_TESTING_PROFILE"]
    """
    name = os.environ.get(_VARIABLE)
    if name is None:
        return settings(deadline=None, suppress_health_check=_QUIET, phases=_PHASES)
    if name not in PROFILES:
        raise ArgumentError(f"{_VARIABLE} must be one of {', '.join(PROFILES)}, got {name!r}")
    return settings.get_profile(f"ssmctx-{name}")


def seeds() -> st.SearchStrategy[int]:
    """Seeds of random values."""
    return st.integers(0, 2**20)


def sizes(largest: int = 40, multiple: int = 1) -> st.SearchStrategy[tuple[int, int]]:
    """Heights and widths of at least 1.

    Args:
        largest: largest side.
        multiple: both sides are multiples of this.
    """
    return st.tuples(_side(largest, multiple), _side(largest, multiple))


def latents(
    channels: int, largest: int = 40, multiple: int = 1, most: int = 3, kinds: tuple[str, ...] = LATENTS
) -> st.SearchStrategy[Latent]:
    """Latents of every kind, in batches.

    Args:
        channels: of y.
        largest: side.
        multiple: that both sides are of.
        most: images per batch.
        kinds: of `LATENTS`.
    """
    return st.builds(
        Latent,
        channels=st.just(channels),
        height=_side(largest, multiple),
        width=_side(largest, multiple),
        batch=st.integers(1, most),
        seed=seeds(),
        kind=st.sampled_from(kinds),
        scale=st.sampled_from([4.0, 0.1, 1.0, 40.0]),
    )


def images(largest: int = 192, multiple: int = 1, most: int = 2) -> st.SearchStrategy[Image]:
    """Images, in batches.

    Args:
        largest: side, in pixels.
        multiple: that both sides are of.
        most: images per batch.
    """
    return st.builds(
        Image,
        height=_side(largest, multiple),
        width=_side(largest, multiple),
        batch=st.integers(1, most),
        seed=seeds(),
    )


def slicings(largest: int = 12, most: int = 5) -> st.SearchStrategy[list[int]]:
    """Channels of each slice, as `CodingOrder` takes them.

    Args:
        largest: channels of a slice.
        most: slices.
    """
    return st.lists(st.integers(1, largest), min_size=1, max_size=most)


def steps(num_steps: int) -> st.SearchStrategy[int]:
    """Coding steps: a slice and a parity each.

    Args:
        num_steps: how many there are.
    """
    return st.integers(0, num_steps - 1)


def scan_cases(largest: int = 9, states: int = 17) -> st.SearchStrategy[ScanCase]:
    """Arguments of a scan: any direction, any number of times; long and short memory; widths around whole vectors; step
    sizes whole and of low rank.

    Args:
        largest: height and width.
        states: most states N.
    """
    side = st.integers(1, largest)
    return st.builds(
        ScanCase,
        batch=st.integers(1, 3),
        height=side,
        width=side,
        channels=st.one_of(side, st.sampled_from([63, 64, 65, 130])),
        states=st.integers(1, states),
        directions=st.lists(st.sampled_from(DIRECTIONS), min_size=1, max_size=4).map(tuple),
        softplus=st.booleans(),
        dt_shift=st.sampled_from([0.0, -12.0, 6.0]),
        seed=seeds(),
        rank=st.sampled_from([0, 0, 1, 5]),
    )


def corruptions(kinds: tuple[str, ...] = CORRUPTIONS) -> st.SearchStrategy[Corruption]:
    """Damage of any kind, to any stream, at any offset.

    Args:
        kinds: of `CORRUPTIONS`.
    """
    return st.builds(Corruption, kind=st.sampled_from(kinds), stream=st.integers(0, 31), offset=seeds())


def _side(largest: int, multiple: int) -> st.SearchStrategy[int]:
    return st.integers(1, max(1, largest // multiple)).map(lambda count: count * multiple)
