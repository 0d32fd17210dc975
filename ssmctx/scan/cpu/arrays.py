"""What the CPU kernels work on, packed; here because the kernels load numba and their callers must not."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Block", "Chunk", "GradientChunk", "Gradients", "Inputs", "Part"]


class Inputs(NamedTuple):
    """The arrays of a scan, the pixels of an image in a row of length L.

    Step sizes come as they are, raw (batch, L, K, d) and dt_weight (K, 0, d), or as a product, raw (batch, L, K, rank)
    and dt_weight (K, rank, d).

    Attributes:
        u: input, (batch, L, 1, d).
        raw: step sizes before bias and softplus, (batch, L, K, d or rank).
        dt_weight: factor of low-rank step sizes, (K, 0 or rank, d).
        A: decay rates in units of ln 2, (K, N, d).
        B: input weights, (batch, L, K, N).
        C: output weights, (batch, L, K, N).
        D: skip weights, (K, d).
        dt_bias: bias of the step sizes, (K, d).
        h0: first states, (batch, K, d, N).
        walks: first pixel, length of a line, step in it and step between lines of each direction, (K, 4).
    """

    u: Any
    raw: Any
    dt_weight: Any
    A: Any
    B: Any
    C: Any
    D: Any
    dt_bias: Any
    h0: Any
    walks: Any


class Gradients(NamedTuple):
    """The gradients of a scan that the kernels write; sums over images and blocks of channels are the caller's.

    Attributes:
        u: (parts * batch, L, 1, d).
        raw: (batch, L, K, d); of low-rank step sizes one part a block of channels, (blocks * batch, L, K, rank).
        dt_weight: (batch, K, 0 or rank, d).
        A: (batch, K, N, d).
        B: one part a block of channels, (blocks * batch, L, K, N).
        C: one part a block of channels, (blocks * batch, L, K, N).
        D: (batch, K, d).
        dt_bias: (batch, K, d).
        h0: (batch, K, d, N).
    """

    u: Any
    raw: Any
    dt_weight: Any
    A: Any
    B: Any
    C: Any
    D: Any
    dt_bias: Any
    h0: Any


class Part(NamedTuple):
    """What a kernel is at: image b, direction k, `width` channels from c0 on, in `lanes` lanes."""

    b: Any
    k: Any
    c0: Any
    width: Any
    lanes: Any


class Block(NamedTuple):
    """A block's share of what is fixed along a direction: A (N, lanes), D and dt_bias (1, lanes), dt_weight (rank,
    lanes)."""

    A: Any
    D: Any
    dt_bias: Any
    dt_weight: Any


class Chunk(NamedTuple):
    """What a block needs of a chunk of positions, a row for each.

    Attributes:
        pixels: index of the pixel, (positions,).
        x: input, (positions, lanes).
        low_rank: step sizes whose product with dt_weight is raw, (positions, rank filled up to whole tiles).
        raw: step sizes before bias and softplus; then, where it is wanted, the slope of dt there, (positions, lanes).
        dt: step sizes, (positions, lanes).
        dtx: dt * x, (positions, lanes).
        B: input weights, (positions, N).
        C: output weights, (positions, N).
    """

    pixels: Any
    x: Any
    low_rank: Any
    raw: Any
    dt: Any
    dtx: Any
    B: Any
    C: Any


class GradientChunk(NamedTuple):
    """Gradients of a block's fixed arrays and of a chunk's, and what is kept to find them.

    Attributes:
        v: of the scan's output, which comes from outside, (positions, lanes).
        h: of the states after the chunk, then of those before it, (N, lanes).
        A: summed over positions, (N, lanes).
        D: summed over positions, (1, lanes).
        dt_bias: summed over positions, (1, lanes).
        dt_weight: summed over positions, (rank, lanes).
        low_rank: (positions, rank).
        dt: of dt as A sees it, then of raw, (positions, lanes).
        dtx: of dtx, then of x, (positions, lanes).
        B: (positions, N).
        C: (positions, N).
        trail: states and decays, (positions + 1, 2 * TILE, 16).
        sums: of B and C, then of low_rank, before they are summed over the lanes, (positions, 2 * TILE, 16).
    """

    v: Any
    h: Any
    A: Any
    D: Any
    dt_bias: Any
    dt_weight: Any
    low_rank: Any
    dt: Any
    dtx: Any
    B: Any
    C: Any
    trail: Any
    sums: Any
