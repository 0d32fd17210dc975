"""A hyperprior and a context model that code integer latents."""

from __future__ import annotations

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
from ssmctx.entropy.scale_network.steps import StepScales, scale_steps
from ssmctx.entropy.steps import Step, coding_steps, drive

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
            HyperSynthesis(M, WIDTH, HYPER_CHANNELS, DEPTH, block="cnn", means_only=context.means_only),
        )
        self.context = context
        self.distribution = distribution
        self.scale_bound = LowerBound(distribution.grid.minimum)
        self.scale_network = scale_network_of(scales, context, HYPER_CHANNELS, distribution.grid)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of y and bits of z of integer latents (batch, M, H, W).

        What a step may know is known from the start, so no gradient goes from step to step through y_hat.
        """
        side, symbols, z_likelihoods = self.estimate_side(y, None)
        size = (y.shape[2], y.shape[3])
        state = self.context.begin(side)
        residuals, scales = [], []
        for step in range(self.context.order.num_steps):
            y_hat = y.where(self.context.order.coded_mask(step, size), 0)
            mean, scale = self.context(step, y_hat, side, state)
            indices = self.context.order.indices(step, size)
            own = self.context.order.select(step, y)
            residuals.append((own - mean).flatten(2).index_select(2, indices))
            scales.append(scale.flatten(2).index_select(2, indices))
        scales = self.network_scales(symbols, size, residuals) or scales
        residual, scale = (torch.cat([x.flatten() for x in parts]) for parts in (residuals, scales))
        likelihoods = self.distribution.likelihood(residual, self.scale_bound(scale))
        return -likelihoods.log2().sum(), -z_likelihoods.log2().sum()

    def network_scales(self, symbols: Tensor, size: tuple[int, int], residuals: list[Tensor]) -> list[Tensor]:
        """The scale network's scales of each step, (batch, m, P), of the residuals y - mean; [] without one."""
        found: list[Tensor] = []

        def known(scales: StepScales) -> Tensor:
            found.append(scales.values)
            return torch.round(residuals[scales.index].detach())

        if self.scale_network is not None:
            drive(scale_steps(self.scale_network, symbols, Gain(), size), known)
        return found

    def update(self) -> None:
        """Build the coding tables of z."""
        kept = self.scale_network is not None
        self.entropy_bottleneck.update(force=True, update_quantiles=True, keep_medians=kept)

    @torch.no_grad()
    def encode(self, y: Tensor) -> tuple[bytes, bytes]:
        """The streams of y and z of one latent (1, M, H, W)."""
        coder = RansCoder()
        coded = self.encode_side(y, None, coder)
        steps: list[tuple[Tensor, Tensor, Tensor]] = []

        def quantised(step: Step) -> Tensor:
            own = step.order.select(step.index, y)
            steps.append((step.gather(own), step.gather(step.mean), step.gather(step.scale)))
            return step.residual_of(own)

        drive(coding_steps(self.context, coded.side), quantised)
        residuals = [values - mean for values, mean, _ in steps]
        scales = self.network_scales(coded.symbols, (y.shape[2], y.shape[3]), residuals)
        values, mean, scale = (torch.cat([x.flatten() for x in parts]) for parts in zip(*steps, strict=True))
        if scales:
            scale = torch.cat([x.flatten() for x in scales])
        symbols, rows = symbols_and_rows(values, mean, scale, self.distribution)
        encoder = coder.encoder()
        encoder.encode(
            symbols.numpy().astype(np.int16),
            rows.numpy().astype(np.uint16),
            shifted_tables(self.distribution),
        )
        return encoder.finish(), coded.stream
