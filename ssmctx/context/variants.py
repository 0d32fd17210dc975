"""The context models of the paper's comparisons, each by a name of `ssmctx.registry.contexts`.

All take M, `d_state` and `scan_backend`.

Source:
    MambaIC tables 2 (components), 3 and A2 (foundation blocks) and 4 (window sizes); MambaVC (Qin et al., 2024); ELIC
    (He et al., 2022) for uneven slices.
"""

from __future__ import annotations

from functools import partial

from ssmctx.context.channel_spatial import ChannelSpatialContext
from ssmctx.errors import ArgumentError

__all__ = [
    "channel_only",
    "cnn",
    "elic_slices",
    "mambavc",
    "narrow_attention",
    "no_window_attention",
    "transformer",
    "uneven",
    "window_4",
    "window_16",
]


channel_only = partial(ChannelSpatialContext, spatial=False)
"""One pass per slice (table 2, without the spatial context)."""

no_window_attention = partial(ChannelSpatialContext, window_size=None)
"""Without window attention (table 2)."""

narrow_attention = partial(ChannelSpatialContext, attention_width=64)
"""Window attention over 64 projected channels: fewer operations and weights, and no more bits in our benchmark."""

mambavc = partial(ChannelSpatialContext, spatial=False, window_size=None)
"""Slices only, as in MambaVC."""

window_4 = partial(ChannelSpatialContext, window_size=4)
"""Windows of 4 x 4 (table 4)."""

window_16 = partial(ChannelSpatialContext, window_size=16)
"""Windows of 16 x 16 (table 4)."""

cnn = partial(ChannelSpatialContext, block="cnn")
"""Convolutions in place of VSS blocks (tables 3 and A2)."""

transformer = partial(ChannelSpatialContext, block="transformer")
"""Window transformers in place of VSS blocks (tables 3 and A2)."""


def elic_slices(M: int) -> list[int]:
    """Five slices that grow as ELIC's do: 16, 16, 32, 64 and the rest for M = 320, in proportion for other M.

    Raises:
        ArgumentError: M is below 20.

    Examples:
        >>> from ssmctx.context.variants import elic_slices
        >>> elic_slices(320), elic_slices(60)
        ([16, 16, 32, 64, 192], [3, 3, 6, 12, 36])
    """
    if M < 20:
        raise ArgumentError(f"uneven slices need M of at least 20, got {M}")
    first = [M // 20, M // 20, M // 10, M // 5]
    return [*first, M - sum(first)]


def uneven(
    M: int = 320, window_size: int | None = 8, d_state: int = 16, scan_backend: str = "auto", block: str = "vss"
) -> ChannelSpatialContext:
    """Slices of ELIC's widths."""
    return ChannelSpatialContext(M, None, window_size, d_state, scan_backend, elic_slices(M), block=block)
