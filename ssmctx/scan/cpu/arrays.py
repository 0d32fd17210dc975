"""What the CPU kernels work on, packed; here because the kernels load numba and their callers must not."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Block", "Chunk", "GradientChunk", "Gradients", "Inputs", "Outputs", "Part", "Scan"]


class Scan(NamedTuple):
    """A scan as kernels take it: numbers, and addresses of C-ordered float32 arrays, the pixels of an image in a row.

    Step sizes come as they are, raw (batch, L, K, d), or as a product of raw (batch, L, K, rank) and dt_weight.

    Attributes:
        taken: how many tasks threads have begun; they count it up.
        finished: how many are done.
        batch: images.
        length: L, pixels of an image.
        channels: d.
        directions: K.
        states: N.
        rank: of step sizes that are a product; 0 where they are not.
        softplus: whether step sizes go through softplus, 0 or 1.
        parts: that the output is made in, 1 or K; with K each direction of a block is a task of its own.
        chunks: of positions before which states are kept; 0 for none.
        raw_row: numbers from one direction's raw to the next one's: d, or of low-rank step sizes rank + 2N, for raw, B
            and C then lie side by side and their addresses are those of the first one's parts.
        weights_row: the same of B and C: N, or rank + 2N.
        walks: first pixel, length of a line, step in it and step between lines of each direction, int64 (K, 4).
        u: input, (batch, L, 1, d).
        raw: step sizes before bias and softplus, (batch, L, K, d or rank).
        dt_weight: factor of low-rank step sizes, (K, d, rank).
        A: decay rates, (K, d, N).
        B: input weights, (batch, L, K, N).
        C: output weights, (batch, L, K, N).
        D: skip weights, (K, d).
        dt_bias: bias of the step sizes, (K, d).
        h0: first states, (batch, K, d, N).
        starts: states before each chunk, (batch, K, chunks, N, d).
    """

    taken: int
    finished: int
    batch: int
    length: int
    channels: int
    directions: int
    states: int
    rank: int
    softplus: int
    parts: int
    chunks: int
    raw_row: int
    weights_row: int
    walks: int
    u: int
    raw: int
    dt_weight: int
    A: int
    B: int
    C: int
    D: int
    dt_bias: int
    h0: int
    starts: int


class Outputs(NamedTuple):
    """What forward writes beside `Scan.starts`, as addresses.

    Attributes:
        v: one part or one a direction, (parts * batch, L, 1, d).
        last: (batch, K, d, N).
    """

    v: int
    last: int


class Gradients(NamedTuple):
    """Gradients as addresses: those of v and last are read, the others written; sums over images, parts and blocks are
    the caller's. Those of raw, B and C lie side by side where these do.

    Attributes:
        of_v: (batch, L, 1, d).
        of_last: (batch, K, d, N).
        of_u: (parts * batch, L, 1, d).
        of_raw: (batch, L, K, d); of low-rank step sizes one part a block of channels, (blocks * batch, L, K, rank).
        of_B: one part a block of channels, (blocks * batch, L, K, N).
        of_C: one part a block of channels, (blocks * batch, L, K, N).
        of_fixed: of A, dt_weight, D and dt_bias, side by side, (batch, K, d, N + rank + 2).
        of_h0: (batch, K, d, N).
    """

    of_v: int
    of_last: int
    of_u: int
    of_raw: int
    of_B: int  # noqa: N815
    of_C: int  # noqa: N815
    of_fixed: int
    of_h0: int


class Inputs(NamedTuple):
    """The arrays of a `Scan`."""

    u: Any
    raw: Any
    dt_weight: Any
    A: Any
    B: Any
    C: Any
    D: Any
    dt_bias: Any
    h0: Any
    starts: Any
    walks: Any


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
