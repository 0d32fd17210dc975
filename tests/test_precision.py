"""Mixed precision, compilation and export of every registered block and context."""

import pytest
import torch
from mambaic.codec import MambaIC
from models import latent

from ssmctx import registry

BLOCKS = ("cnn", "transformer", "vss", "window-attention")
M = 20


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_train_in_bfloat16(name):
    """200 steps of fitting a blur, on inputs of very different loudness."""
    torch.manual_seed(0)
    block = registry.blocks.create(name, 8)
    optimizer = torch.optim.Adam(block.parameters(), lr=3e-3)
    losses = []
    for step in range(200):
        x = latent(step % 7, 2, 8, 6, 6) * (0.1, 1, 10)[step % 3]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = block(x)
        target = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
        loss = (y.float() - target).square().mean() / x.square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(loss < 1e3 for loss in losses)  # NaN fails too
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])


def test_the_codec_trains_in_bfloat16():
    torch.manual_seed(0)
    model = MambaIC("tiny").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.rand(1, 3, 48, 48)
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
        bits = -sum(p.float().log2().sum() for p in out["likelihoods"].values())
        loss = (out["x_hat"].float() - x).square().mean() + 1e-5 * bits
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_compile_and_export_whole(name):
    torch.manual_seed(0)
    block = registry.blocks.create(name, 8).eval()
    x = torch.randn(1, 8, 5, 9)
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x))
    torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), block(x))


@pytest.mark.parametrize("name", ["channel-spatial", "mambavc", "none", "transformer", "uneven"])
def test_contexts_compile_whole(name):
    torch.manual_seed(0)
    context = registry.contexts.create(name, M).eval()
    y_hat, side = latent(0, 1, M, 5, 6), latent(1, 1, 2 * M, 5, 6)
    step = context.order.num_steps - 1
    torch._dynamo.reset()
    compiled = torch.compile(context, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(step, y_hat, side), context(step, y_hat, side))
