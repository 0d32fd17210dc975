"""The codec: transforms g_a and g_s around ssmctx's entropy model, in three sizes and the paper's variants."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from mambaic.wavelets import start_as_wavelets
from ssmctx import ImageCodec, MambaICEntropyModel, registry
from ssmctx.entropy import HyperSynthesis, hyper_analysis
from ssmctx.errors import ArgumentError
from ssmctx.layers.foundation import foundation_block
from ssmctx.layers.transforms import analysis_transform, synthesis_transform

GAIN = 4.0  # quantisation steps of y per unit of a wavelet coefficient, at the start of training
_LAST_LAYERS = ("out_proj", "branch.2", "attention.proj", "mlp.2")  # of the residual branches of all blocks


@dataclass(frozen=True)
class Preset:
    """Sizes of a codec: N, M and depths as the paper names them (depths of the three stages of g_a, then of h_a)."""

    N: int
    M: int
    hyper_channels: int
    depths: tuple[int, int, int, int]
    d_state: int
    drop_path: float


PRESETS = {
    "tiny": Preset(N=16, M=60, hyper_channels=24, depths=(0, 1, 1, 1), d_state=4, drop_path=0.0),
    "small": Preset(N=48, M=160, hyper_channels=96, depths=(1, 1, 2, 1), d_state=8, drop_path=0.0),
    "full": Preset(N=128, M=320, hyper_channels=192, depths=(2, 2, 9, 2), d_state=16, drop_path=0.1),
}


@dataclass(frozen=True)
class Variant:
    """What a codec is made of: foundation blocks of g_a and g_s, and of h_a and h_s, and the context model."""

    main: str = "vss"
    hyper: str = "vss"
    context: str = "channel-spatial"


CONTEXTS = ("none", "channel", "no-wla", "window-4", "window-16", "uneven", "cnn", "transformer")
VARIANTS = {
    "mambaic": Variant(),
    "mambavc": Variant(context="mambavc"),
    **{f"context-{name}": Variant(context=name) for name in CONTEXTS},
    **{f"main-{block}": Variant(main=block) for block in ("cnn", "transformer")},
    **{f"hyper-{block}": Variant(hyper=block) for block in ("cnn", "transformer")},
    **{f"all-{block}": Variant(block, block, block) for block in ("cnn", "transformer")},
}
"""The paper's comparisons: parts left out (table 2), other blocks (tables 3 and A2), other windows (table 4)."""


def find_variant(name: str) -> Variant:
    """A variant of `VARIANTS`, or one with any registered part: context-NAME, main-BLOCK or hyper-BLOCK.

    Raises:
        ArgumentError: neither; the message lists the names.
    """
    part, _, chosen = name.partition("-")
    if name in VARIANTS:
        return VARIANTS[name]
    if part == "context" and chosen in registry.contexts.names():
        return Variant(context=chosen)
    if part in ("main", "hyper") and chosen in registry.blocks.names():
        return Variant(**{part: chosen})
    raise ArgumentError(
        f"unknown variant {name!r}; known: {', '.join(VARIANTS)}; context-NAME with a registered context "
        f"({', '.join(registry.contexts.names())}); main-BLOCK and hyper-BLOCK with a registered block "
        f"({', '.join(registry.blocks.names())})"
    )


class MambaIC(ImageCodec):
    """MambaIC (paper section 3.2, appendix C): VSS transforms around the channel-spatial entropy model, or a variant.

    Args:
        preset: name of an entry of `PRESETS`.
        variant: as `find_variant` takes it.
    """

    def __init__(self, preset: str, variant: str = "mambaic") -> None:
        if preset not in PRESETS:
            raise ArgumentError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        p, parts = PRESETS[preset], find_variant(variant)
        width = 2 * p.N
        *stages, hyper_depth = p.depths
        deepest = max(1, sum(stages) - 1)
        rates = [p.drop_path * i / deepest for i in range(sum(stages))]

        def blocks(stage: int) -> list[nn.Module]:
            first = sum(stages[:stage])
            return [foundation_block(parts.main, width, p.d_state, r) for r in rates[first : first + stages[stage]]]

        super().__init__(
            analysis_transform(width, p.M, blocks),
            synthesis_transform(width, p.M, blocks),
            MambaICEntropyModel(
                p.M,
                hyper_channels=p.hyper_channels,
                context=registry.contexts.create_with(parts.context, p.M, d_state=p.d_state),
                h_a=hyper_analysis(p.M, width, p.hyper_channels, hyper_depth, p.d_state, parts.hyper),
                h_s=HyperSynthesis(p.M, width, p.hyper_channels, hyper_depth, p.d_state, parts.hyper),
            ),
        )
        self.preset, self.variant = preset, variant
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Let the transforms start as wavelets, and the blocks between them as what changes nothing."""
        start_as_wavelets(self.g_a, self.g_s, GAIN)
        for module in [*self.g_a, *self.g_s]:
            for name, layer in module.named_modules():
                if name in _LAST_LAYERS:
                    nn.init.zeros_(layer.weight)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)


def describe(preset: str) -> str:
    """One line about a preset, for help texts."""
    sizes = dataclasses.asdict(PRESETS[preset])
    return f"{preset} (N={sizes['N']}, M={sizes['M']}, depths {'-'.join(map(str, sizes['depths']))})"
