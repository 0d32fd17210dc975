"""Blocks by name: what they take is asked of their signatures; traced and exported they give the same values."""

import pytest
import torch

from ssmctx import registry
from ssmctx.errors import ArgumentError, UnknownNameError
from ssmctx.layers.checkerboard import checkerboard_taps
from ssmctx.layers.foundation import foundation_block
from ssmctx.layers.gated_attention import ResidualUnit
from ssmctx.layers.pointwise import PointwiseConv2d


@pytest.fixture
def _plugins(monkeypatch):
    monkeypatch.setattr(registry.blocks, "_targets", {**registry.blocks._targets})

    class Scans(torch.nn.Module):
        def __init__(self, dim, d_state=16):
            super().__init__()
            self.d_state = d_state

    class TakesAll(torch.nn.Module):
        def __init__(self, dim, **options):
            super().__init__()
            self.options = options

    registry.blocks.register("scans", Scans)
    registry.blocks.register("takes all", TakesAll)


@pytest.mark.usefixtures("_plugins")
def test_a_block_gets_what_its_signature_takes():
    assert foundation_block("scans", 8, d_state=3, scan_backend="torch").d_state == 3
    expected = {"d_state": 3, "scan_backend": "torch", "drop_path": 0.5, "kernel": 7}
    assert foundation_block("takes all", 8, 3, 0.5, "torch", kernel=7).options == expected
    block = foundation_block("vss", 8, d_state=3, scan_backend="torch", drop_path=0.5, expand=1)
    assert (block.scan.d_state, block.scan.scan_backend, block.drop_path) == (3, "torch", 0.5)
    assert foundation_block("cnn", 8, d_state=3, scan_backend="torch", drop_path=0.5).drop_path == 0.5
    assert foundation_block("window-attention", 8, window_size=4).window_size == 4


@pytest.mark.usefixtures("_plugins")
def test_what_a_block_does_not_take_is_refused():
    with pytest.raises(ArgumentError, match="the block 'cnn' takes no kernal; it takes dim, drop_path"):
        foundation_block("cnn", 8, kernal=3)
    with pytest.raises(ArgumentError, match="the block 'scans' takes no drop_path; it takes dim, d_state"):
        foundation_block("scans", 8, drop_path=0.5)
    with pytest.raises(UnknownNameError, match="unknown block 'vsss'"):
        foundation_block("vsss", 8)


@pytest.mark.parametrize("name", registry.blocks.names())
def test_exported_blocks_give_the_same_values(name):
    block, x = registry.blocks.create(name, 8).eval(), torch.randn(2, 8, 9, 11)
    torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), block(x))


@pytest.mark.parametrize("name", registry.blocks.names())
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_blocks_give_the_same_values(name):
    block, x = registry.blocks.create(name, 8).eval(), torch.randn(2, 8, 9, 11)
    torch.testing.assert_close(torch.jit.trace(block, x)(x), block(x))


@pytest.mark.parametrize(
    "name", [name for name in registry.blocks.names() if "drop_path" in registry.blocks.takes(name)]
)
def test_drop_path_changes_no_bit_of_evaluation(name):
    block, x = registry.blocks.create(name, 8).eval(), torch.randn(2, 8, 9, 11)
    other = registry.blocks.create(name, 8, drop_path=0.5).eval()
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), block(x))
    torch.manual_seed(0)
    assert not torch.allclose(other.train()(x), block(x))


@pytest.mark.parametrize(("dim", "need"), [(1, "at least 2"), (8.0, "an integer"), (True, "an integer")])
def test_a_residual_unit_names_the_size_that_it_needs(dim, need):
    with pytest.raises(ArgumentError, match=f"ResidualUnit: dim must be {need}.*, got {dim}"):
        ResidualUnit(dim)


def test_a_kernel_of_even_side_has_no_checkerboard():
    with pytest.raises(ArgumentError, match="checkerboard_taps: kernel_size must be odd, got 4"):
        checkerboard_taps(4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_pointwise_convolution_is_torchs_own(memory_format):
    own, torchs = PointwiseConv2d(5, 7).double(), torch.nn.Conv2d(5, 7, 1).double()
    torchs.load_state_dict(own.state_dict())
    x, gradient = torch.randn(2, 5, 3, 4).double(), torch.randn(2, 7, 3, 4).double()
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    found, expected = own(x), torchs(x)
    torch.testing.assert_close(found, expected)
    asked = [
        torch.autograd.grad(y, [x, *layer.parameters()], gradient) for y, layer in ((found, own), (expected, torchs))
    ]
    torch.testing.assert_close(*asked)
