"""The laws of coding as functions: each raises AssertionError that says what broke where."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmctx import ContextModel


def disturb(y_hat: Tensor, keep: Tensor, seed: int) -> Tensor:
    """y_hat with everything outside `keep` replaced by large noise and some NaN."""
    noise = 1e3 * torch.randn(y_hat.shape, generator=torch.Generator().manual_seed(seed))
    noise.flatten()[:: max(1, noise.numel() // 7)] = float("nan")
    return torch.where(keep, y_hat, noise)


@torch.no_grad()
def assert_causal(context: ContextModel, y_hat: Tensor, side: Tensor, step: int, seed: int) -> None:
    """What a step predicts must not move by one bit when anything changes that no earlier step coded."""
    order, size = context.order, tuple(y_hat.shape[2:])
    coded = torch.zeros(order.num_channels, *size, dtype=torch.bool)
    for earlier in range(step):
        coded |= order.mask(earlier, size)
    before = context(step, y_hat, side)
    after = context(step, disturb(y_hat, coded, seed), side)
    now = order.positions(step, size)
    for name, a, b in zip(("mean", "scale"), before, after, strict=True):
        moved = (a != b) & now
        assert not moved.any(), f"step {step}: the {name} moved at {moved.nonzero()[0].tolist()} with uncoded symbols"


def assert_round_trip(model, y: Tensor) -> dict:
    """decompress(compress(y)), all at once and one by one, must equal eval-mode forward bit for bit."""
    with torch.no_grad():
        estimate = model(y)["y_hat"]
    coded = model.compress(y)
    assert torch.equal(coded["y_hat"], estimate), "compress gives another y_hat than forward"
    decoded = model.decompress(coded["strings"], coded["shape"])["y_hat"]
    assert torch.equal(decoded, estimate), "decompress gives another y_hat than forward"
    for i in range(len(y)):
        strings = [[streams[i]] for streams in coded["strings"]]
        alone = model.decompress(strings, coded["shape"])["y_hat"]
        assert torch.equal(alone, estimate[i : i + 1]), f"picture {i} decodes differently alone"
        assert model.compress(y[i : i + 1])["strings"] == strings, f"picture {i} codes differently alone"
    return coded
