"""torch.compile and torch.export: one graph for a whole entropy model, any batch and size for contexts and blocks."""

import pytest
import torch
from models import M, context, latent
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from ssmctx import MambaICEntropyModel, registry
from ssmctx.testing.registered import make_small


@pytest.mark.parametrize(("distribution", "order"), [("gaussian", "slices"), ("generalised-gaussian", "none")])
def test_a_training_step_is_one_graph_for_all_steps_of_the_loop(distribution, order):
    torch._dynamo.reset()
    h_a, h_s = nn.Conv2d(M, 4, 4, stride=4), nn.ConvTranspose2d(4, 2 * M, 4, stride=4)
    slices = context(num_slices=2, block="cnn") if order == "slices" else order  # one distribution is compiled quickly
    parts = {"context": slices, "h_a": h_a, "h_s": h_s}
    model = MambaICEntropyModel(M, hyper_channels=4, distribution=distribution, **parts).train()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for size in ((2, M, 8, 12), (3, M, 8, 8)):
        out = compiled(torch.randn(size))
        rate = sum(-p.log2().sum() for p in out["likelihoods"].values())
        (rate + out["y_hat"].square().sum()).backward()
    assert counter.frame_count <= 2  # one for the first size, one for any
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.endswith("quantiles"))


class AtStep(nn.Module):
    def __init__(self, model, step):
        super().__init__()
        self.model, self.step = model, step

    def forward(self, y_hat, side):
        return self.model(self.step, y_hat, side)


@pytest.mark.parametrize("step", [0, 3, 4])
def test_an_exported_context_holds_for_any_batch_and_size(step):
    model, auto = context(), torch.export.Dim.AUTO
    sizes = {0: auto, 2: auto, 3: auto}
    example = latent(0, 2, M, 9, 12), latent(1, 2, 2 * M, 9, 12)
    program = torch.export.export(AtStep(model, step), example, dynamic_shapes=(sizes, sizes)).module()
    now = model.order.positions(step, (13, 7))
    y_hat, side = latent(2, 3, M, 13, 7), latent(3, 3, 2 * M, 13, 7)
    for exported, eager in zip(program(y_hat, side), model(step, y_hat, side), strict=True):
        torch.testing.assert_close(exported[..., now], eager[..., now], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", registry.blocks.names())
def test_an_exported_block_holds_for_any_batch_and_size(name):
    block, auto = make_small(registry.blocks, name), torch.export.Dim.AUTO
    program = torch.export.export(
        block, (latent(0, 2, 8, 9, 12),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
    ).module()
    for size in ((3, 8, 13, 7), (1, 8, 8, 8)):
        x = latent(1, *size)
        torch.testing.assert_close(program(x), block(x), rtol=1e-4, atol=1e-5)
