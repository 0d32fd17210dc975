"""What a strict type checker sees of an installed ssmctx. Checked by `tools/check_package.py`, never run."""

from __future__ import annotations

import torch

import ssmctx
from ssmctx import (
    ChannelSpatialContext,
    CodingOrder,
    ContextModel,
    ImageCodec,
    MambaICEntropyModel,
    VSSBlock,
    WindowLocalAttention,
    backends,
    profile,
    registry,
)
from ssmctx.entropy import CodedImage
from ssmctx.errors import SsmctxError, StreamError
from ssmctx.scan import cross_selective_scan, selective_scan
from ssmctx.testing import assert_causal, assert_round_trip, count_bits


class Mine(ContextModel):
    """A context model of a user."""

    def __init__(self, M: int) -> None:
        super().__init__(CodingOrder.one_pass([M]))

    def forward(
        self, step: int, y_hat: torch.Tensor, side: torch.Tensor, state: object = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The two halves of the side information."""
        mean, scale = side.chunk(2, dim=1)
        return mean, scale


def use(x: torch.Tensor) -> int:
    """A little of everything."""
    version: str = ssmctx.__version__
    steps: int = ChannelSpatialContext(M=20).order.num_steps
    model = MambaICEntropyModel(M=20, context=Mine(20))
    coded: dict[str, object] = model.compress(x)
    y: torch.Tensor = selective_scan(x, x, x, x, x)
    v: torch.Tensor = cross_selective_scan(x, x, x, x, x, x, x, ["row"])
    v, y = selective_scan(x, x, x, x, x, return_last_state=True)
    assert_causal(Mine(20), y, v)
    assert_round_trip(model, x)
    backends()
    names: tuple[str, ...] = registry.contexts.names()
    costs: list[int] = [part.parameters for part in profile(model, (4, 6))]
    layers = torch.nn.Sequential(VSSBlock(8), WindowLocalAttention(8))
    codec = ImageCodec(layers, layers, model)
    data: bytes = codec.encode(x)
    back: torch.Tensor = codec.decode(data)
    image = CodedImage.from_bytes(data)
    caught: list[type[SsmctxError]] = [StreamError]
    width: int = image.width + len(caught) + len(back)
    return count_bits(coded["strings"]) + steps + len(names) + sum(costs) + width + len(version) + len(list(layers))
