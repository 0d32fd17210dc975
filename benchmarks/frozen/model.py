"""A hyperprior and a context model that code integer latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from frozen.shifted import shifted_tables, symbols_and_rows
from ssmctx import ContextModel
from ssmctx.distributions import Distribution
from ssmctx.entropy import HyperSynthesis, hyper_analysis
from ssmctx.entropy.arguments import scale_network_of
from ssmctx.entropy.gains import Gain
from ssmctx.entropy.hyperprior import Hyperprior
from ssmctx.entropy.lower_bound import LowerBound
from ssmctx.entropy.rans import RansCoder
from ssmctx.entropy.steps import LatentScales, Step, coding_steps, drive

WIDTH, HYPER_CHANNELS, DEPTH = 96, 48, 1


class FrozenModel(Hyperprior):
    r"""Codes integers y as they are: $P(y) = P(|\sigma X + \mu - y| < 1/2)$.

    So every context codes the same latent, to the same distortion, and only bits differ. The hyperprior is the same for
    all contexts, convolutions only.

    Args:
        context: the context model.
        distribution: what y is coded with.
        scales: of `MambaICEntropyModel`: "integer" or "float" for scales from z's symbols, None for the context's.
    """

    def __init__(self, context: ContextModel, distribution: Distribution, scales: str | None = None) -> None:
        M = context.order.num_channels
        super().__init__(
            M,
            HYPER_CHANNELS,
            hyper_analysis(M, WIDTH, HYPER_CHANNELS, DEPTH, block="cnn"),
            HyperSynthesis(M, WIDTH, HYPER_CHANNELS, DEPTH, block="cnn"),
        )
        self.context = context
        self.distribution = distribution
        self.scale_bound = LowerBound(distribution.grid.minimum)
        self.scale_network = scale_network_of(scales, M, HYPER_CHANNELS, distribution.grid)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of y and bits of z of integer latents (batch, M, H, W).

        What a step may know is known from the start, so no gradient goes from step to step through y_hat.
        """
        side, symbols, z_likelihoods = self.estimate_side(y, None)
        size = y.shape[2:]
        ahead = self.scales_ahead(symbols, size)
        state = self.context.begin(side)
        residuals, scales = [], []
        for step in range(self.context.order.num_steps):
            y_hat = y.where(self.context.order.coded_mask(step, size), 0)
            mean, scale = self.context(step, y_hat, side, state)
            if ahead is not None:
                scale = ahead.scale[:, self.context.order.channels(step)]
            positions = self.context.order.positions(step, size).flatten().nonzero().flatten()
            own = y[:, self.context.order.channels(step)]
            residuals.append((own - mean).flatten(2).index_select(2, positions).flatten())
            scales.append(scale.flatten(2).index_select(2, positions).flatten())
        likelihoods = self.distribution.likelihood(torch.cat(residuals), self.scale_bound(torch.cat(scales)))
        return -likelihoods.log2().sum(), -z_likelihoods.log2().sum()

    def scales_ahead(self, symbols: Tensor, size: torch.Size) -> LatentScales | None:
        """All scales from z's symbols; None where the context gives them."""
        if self.scale_network is None:
            return None
        ahead: LatentScales = self.scale_network(symbols, Gain(), size)
        return ahead

    @torch.no_grad()
    def encode(self, y: Tensor) -> tuple[bytes, bytes]:
        """The streams of y and z of one latent (1, M, H, W)."""
        coder = RansCoder()
        coded = self.encode_side(y, None, coder)
        symbols: list[Any] = []
        rows: list[Any] = []

        def quantised(step: Step) -> Tensor:
            values, mean, scale = (step.gather(x) for x in (y[:, step.channels], step.mean, step.scale))
            for kept, x in zip((symbols, rows), symbols_and_rows(values, mean, scale, self.distribution), strict=True):
                kept.append(x.flatten().numpy())
            return step.residual(y)

        ahead = self.scales_ahead(coded.symbols, y.shape[2:])
        drive(coding_steps(self.context, coded.side, ahead=ahead), quantised)
        encoder = coder.encoder()
        encoder.encode(
            np.concatenate(symbols).astype(np.int16),
            np.concatenate(rows).astype(np.uint16),
            shifted_tables(self.distribution),
        )
        return encoder.finish(), coded.stream
