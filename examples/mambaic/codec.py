"""The codec: g_a and g_s around ssmctx's entropy model; the paper's in three sizes and its variants, and `base`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from mambaic.transforms.folded import FoldedAnalysis, FoldedSynthesis, ResidualBlock, start_as_cosines
from mambaic.transforms.wavelets import cosine_blocks, start_as_wavelets
from ssmctx import ImageCodec, MambaICEntropyModel, registry
from ssmctx.entropy import FactorizedPrior, HyperSynthesis, hyper_analysis
from ssmctx.errors import ArgumentError
from ssmctx.layers.foundation import foundation_block
from ssmctx.layers.transforms import analysis_transform, synthesis_transform

GAIN = 4.0  # quantisation steps of y per unit of a wavelet or cosine coefficient, at the start of training
_Z_SPREAD = 1.0  # of z at the start: a wide one costs a tenth of the bits for thousands of steps
_LAST_LAYERS = ("out_proj", "branch.2", "attention.proj", "mlp.2")  # of the residual branches of all blocks


@dataclass(frozen=True)
class Preset:
    """Sizes of a codec of the paper: N, M and depths as it names them (of the three stages of g_a, then of h_a)."""

    N: int
    M: int
    hyper_channels: int
    depths: tuple[int, int, int, int]
    d_state: int
    drop_path: float


@dataclass(frozen=True)
class FoldedPreset:
    """Sizes of a codec with the transforms of `mambaic.transforms.folded`, one model for all rates.

    Attributes:
        widths: channels at 1/4, 1/8 and 1/16 of the sides.
        depths: blocks at each of them, then between the convolutions of h_a.
        M: channels of y.
        hyper_width: channels between the convolutions of h_a.
        hyper_channels: channels of z.
        context_dim: channels of the feature map of `CarriedStateContext`.
        d_state: states of VSS blocks.
        qualities: rates that have gains.
    """

    widths: tuple[int, int, int]
    depths: tuple[int, int, int, int]
    M: int
    hyper_width: int
    hyper_channels: int
    context_dim: int
    d_state: int
    qualities: int


PRESETS: dict[str, Preset | FoldedPreset] = {
    "tiny": Preset(N=16, M=60, hyper_channels=24, depths=(0, 1, 1, 1), d_state=4, drop_path=0.0),
    "small": Preset(N=48, M=160, hyper_channels=96, depths=(1, 1, 2, 1), d_state=8, drop_path=0.0),
    "full": Preset(N=128, M=320, hyper_channels=192, depths=(2, 2, 9, 2), d_state=16, drop_path=0.1),
    "base": FoldedPreset(
        widths=(64, 128, 192),
        depths=(1, 2, 3, 1),
        M=160,
        hyper_width=96,
        hyper_channels=48,
        context_dim=128,
        d_state=4,
        qualities=6,
    ),
}


@dataclass(frozen=True)
class Variant:
    """What a codec is made of: blocks of g_a and g_s, of h_a and h_s, and the context; None as its preset has it."""

    main: str | None = None
    hyper: str | None = None
    context: str | None = None


CONTEXTS = ("none", "channel", "no-wla", "window-4", "window-16", "uneven", "cnn", "transformer")
VARIANTS = (
    "mambaic",
    "mambavc",
    *(f"context-{name}" for name in CONTEXTS),
    *(f"{part}-{block}" for part in ("main", "hyper", "all") for block in ("cnn", "transformer")),
)
"""The paper's comparisons: parts left out (table 2), other blocks (tables 3 and A2), other windows (table 4)."""


def find_variant(name: str) -> Variant:
    """The variant "mambaic" or "mambavc", or one with registered parts: context-NAME, or main-, hyper- or all-BLOCK.

    Raises:
        ArgumentError: an unknown name; the message lists the names.
    """
    if name == "mambaic":
        return Variant()
    if name == "mambavc":
        return Variant(context="mambavc")
    part, _, chosen = name.partition("-")
    is_block, is_context = chosen in registry.blocks.names(), chosen in registry.contexts.names()
    if part == "context" and is_context:
        return Variant(context=chosen)
    if part in ("main", "hyper") and is_block:
        return Variant(main=chosen) if part == "main" else Variant(hyper=chosen)
    if part == "all" and is_block and is_context:
        return Variant(chosen, chosen, chosen)
    raise ArgumentError(
        f"unknown variant {name!r}; known: {', '.join(VARIANTS)}; context-NAME with a registered context "
        f"({', '.join(registry.contexts.names())}); main-BLOCK and hyper-BLOCK with a registered block "
        f"({', '.join(registry.blocks.names())})"
    )


class MambaIC(ImageCodec):
    """MambaIC (paper section 3.2, appendix C), a variant of it, or a codec that is made for CPUs.

    Args:
        preset: name of an entry of `PRESETS`.
        variant: as `find_variant` takes it.
    """

    def __init__(self, preset: str, variant: str = "mambaic") -> None:
        if preset not in PRESETS:
            raise ArgumentError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        sizes, parts = PRESETS[preset], find_variant(variant)
        if isinstance(sizes, FoldedPreset):
            super().__init__(*_folded_parts(sizes, parts))
        else:
            super().__init__(*_paper_parts(sizes, parts))
        self.preset, self.variant = preset, variant

    @property
    def qualities(self) -> int | None:
        """How many rates the codec has gains for; None for a single-rate codec."""
        return rates(self)


def rates(codec: ImageCodec) -> int | None:
    """How many rates any codec has gains for; None for a single-rate codec."""
    gains = getattr(codec.latent_codec, "gains", None)
    return None if gains is None else gains.count


def _paper_parts(p: Preset, parts: Variant) -> tuple[nn.Module, nn.Module, MambaICEntropyModel]:
    """g_a, g_s and the entropy model of the paper: transforms start as wavelets, blocks as what changes nothing."""
    main, hyper = parts.main or "vss", parts.hyper or "vss"
    width = 2 * p.N
    *stages, hyper_depth = p.depths
    deepest = max(1, sum(stages) - 1)
    drop = [p.drop_path * i / deepest for i in range(sum(stages))]

    def blocks(stage: int) -> list[nn.Module]:
        first = sum(stages[:stage])
        return [foundation_block(main, width, p.d_state, r) for r in drop[first : first + stages[stage]]]

    g_a, g_s = analysis_transform(width, p.M, blocks), synthesis_transform(width, p.M, blocks)
    latent_codec = MambaICEntropyModel(
        p.M,
        hyper_channels=p.hyper_channels,
        context=registry.contexts.create_with(parts.context or "channel-spatial", p.M, d_state=p.d_state),
        h_a=hyper_analysis(p.M, width, p.hyper_channels, hyper_depth, p.d_state, hyper),
        h_s=HyperSynthesis(p.M, width, p.hyper_channels, hyper_depth, p.d_state, hyper),
    )
    start_as_wavelets(g_a, g_s, GAIN)
    _silence([*g_a, *g_s])
    return g_a, g_s, latent_codec


def _folded_parts(p: FoldedPreset, parts: Variant) -> tuple[nn.Module, nn.Module, MambaICEntropyModel]:
    """g_a, g_s and the entropy model of a preset made for CPUs: transforms that start as cosines."""
    *stages, hyper_depth = p.depths

    def blocks(stage: int) -> list[nn.Module]:
        dim = p.widths[stage]
        if parts.main is None:
            return [ResidualBlock(dim) for _ in range(stages[stage])]
        return [foundation_block(parts.main, dim, p.d_state) for _ in range(stages[stage])]

    g_a, g_s = FoldedAnalysis(p.widths, p.M, blocks), FoldedSynthesis(p.widths, p.M, blocks)
    cosines, energies = cosine_blocks(p.M)
    # from the widest to the narrowest, so that the context codes the channels as they stand
    spread = [GAIN * energy**0.5 for energy in energies]
    hyper = parts.hyper or "cnn"
    latent_codec = MambaICEntropyModel(
        p.M,
        hyper_channels=p.hyper_channels,
        context=registry.contexts.create_with(
            parts.context or "carried-state", p.M, d_state=p.d_state, dim=p.context_dim, spread=spread
        ),
        h_a=hyper_analysis(p.M, p.hyper_width, p.hyper_channels, hyper_depth, p.d_state, hyper),
        h_s=HyperSynthesis(p.M, p.hyper_width, p.hyper_channels, hyper_depth, p.d_state, hyper),
        distribution="laplace",
        qualities=p.qualities,
    )
    latent_codec.entropy_bottleneck = FactorizedPrior(p.hyper_channels, init_scale=_Z_SPREAD)
    start_as_cosines(g_a, g_s, cosines, GAIN)
    if parts.main is not None:
        _silence([*g_a.layers, *g_s.layers])
    with torch.no_grad():
        latent_codec.h_a[-1].weight *= _Z_SPREAD / 2
        latent_codec.h_s.scales[-1].bias.copy_(torch.tensor(spread).log())
    return g_a, g_s, latent_codec


@torch.no_grad()
def _silence(layers: Iterable[nn.Module]) -> None:
    """Initialise blocks so that they change nothing."""
    for module in layers:
        for name, layer in module.named_modules():
            if name in _LAST_LAYERS:
                nn.init.zeros_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
