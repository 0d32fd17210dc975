"""The VSS block: golden vectors, any size, dtype and layout."""

import importlib.util

import numpy as np
import pytest
import torch

from ssmctx import VSSBlock
from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.layers import SS2D, vss

# our parameter names and those that the golden vectors were filled by
GOLDEN_NAMES = {
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "in_proj.weight": "op.in_proj.weight",
    "conv.weight": "op.conv2d.weight",
    "conv.bias": "op.conv2d.bias",
    "scan.x_proj_weight": "op.x_proj_weight",
    "scan.dt_proj_weight": "op.dt_projs_weight",
    "scan.dt_bias": "op.dt_projs_bias",
    "scan.A_log": "op.A_logs",
    "scan.D": "op.Ds",
    "out_norm.weight": "op.out_norm.weight",
    "out_norm.bias": "op.out_norm.bias",
    "out_proj.weight": "op.out_proj.weight",
}


@pytest.mark.parametrize(("dim", "height", "width", "batch"), [(32, 7, 5, 2), (48, 1, 9, 1), (16, 16, 12, 1)])
def test_golden_outputs_and_gradients(shared, dim, height, width, batch):
    spec = importlib.util.spec_from_file_location("fill", shared / "golden" / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    golden = np.load(shared / "golden" / "blocks.npz")
    key = f"vss_c{dim}_h{height}_w{width}_b{batch}"
    block = VSSBlock(dim)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            shape = golden[f"{key}/grad/{GOLDEN_NAMES[name]}"].shape
            value = fill.weights(f"vss{dim}.{GOLDEN_NAMES[name]}", shape)
            parameter.copy_(torch.from_numpy(value).view_as(parameter))
    x = torch.from_numpy(fill.normal(f"vss-in-{dim}-{height}-{width}", (batch, dim, height, width))).requires_grad_()
    y = block(x)
    (y * torch.from_numpy(fill.normal(f"vss-grad-{dim}-{height}-{width}", tuple(y.shape)))).sum().backward()
    actual = {"y": y, "dx": x.grad} | {f"grad/{GOLDEN_NAMES[n]}": p.grad for n, p in block.named_parameters()}
    for name, value in actual.items():
        expected = golden[f"{key}/{name}"]
        error = np.abs(value.detach().numpy().reshape(expected.shape) - expected).max() / np.abs(expected).max()
        assert error < 1e-4, f"{name}: {error:.1e}"


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (6, 9)])
def test_any_size_and_any_memory_layout(size):
    block = VSSBlock(8, d_state=3).eval()
    x = torch.randn(2, 8, *size)
    y = block(x)
    assert y.shape == x.shape
    torch.testing.assert_close(block(x.contiguous(memory_format=torch.channels_last)), y)


@pytest.fixture
def walked_in_parts(monkeypatch):
    """Bands of two or three rows, and groups of 8 channels, from 12 pixels on."""
    limits = {"_LARGE": {"elsewhere": 11}, "_BAND": {"elsewhere": 20}, "_LEAST_ROWS": 2, "_GROUP": 8}
    for name, value in limits.items():
        monkeypatch.setattr(vss, name, value)


@pytest.mark.parametrize("size", [(4, 4), (4, 5), (5, 5), (9, 5), (4, 30), (12, 1)])
def test_large_images_are_walked_in_parts_to_the_same_values(size, request):
    block, x = VSSBlock(10, d_state=3), torch.randn(2, 10, *size).requires_grad_()
    whole = block(x)
    gradients = torch.autograd.grad(whole.square().sum(), [x, *block.parameters()])
    request.getfixturevalue("walked_in_parts")
    assert len(vss._bands(x.permute(0, 2, 3, 1), 10)) > 1
    parts = block(x)
    torch.testing.assert_close(parts, whole)
    for a, e in zip(torch.autograd.grad(parts.square().sum(), [x, *block.parameters()]), gradients, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(2, 5), (9, 5)])  # whole and in parts
@pytest.mark.parametrize("dim", [10, 48])
def test_bits_do_not_depend_on_gradients(size, dim, walked_in_parts):
    block, x = VSSBlock(dim).eval(), torch.randn(1, dim, *size)
    with_gradients = block(x)
    with torch.no_grad():
        assert torch.equal(block(x), with_gradients)
        assert torch.equal(block(x.contiguous(memory_format=torch.channels_last)), with_gradients)


def test_a_real_large_image_keeps_its_bits_without_gradients():
    block, x = VSSBlock(16, d_state=2).eval(), torch.randn(1, 16, 150, 230)
    assert len(vss._bands(x.permute(0, 2, 3, 1), 16)) > 1
    with_gradients = block(x).detach()
    with torch.no_grad():
        assert torch.equal(block(x), with_gradients)


def test_drop_path_drops_whole_samples_of_a_walk_in_parts(walked_in_parts):
    block, x = VSSBlock(4, drop_path=0.5), torch.randn(32, 4, 9, 5)
    untouched = (block(x) == x).flatten(2).all(1)
    assert torch.equal(untouched.all(1), untouched.any(1))
    assert 4 < untouched.all(1).sum() < 28


def test_float64_agrees_with_float32():
    block = VSSBlock(8)
    x = torch.randn(1, 8, 5, 6)
    wide = block.double()(x.double())
    torch.testing.assert_close(block.float()(x).double(), wide, rtol=1e-4, atol=1e-5)


def test_bfloat16_and_autocast_run():
    block = VSSBlock(8)
    x = torch.randn(1, 8, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(x).isfinite().all()
    assert block.bfloat16()(x.bfloat16()).isfinite().all()


def test_initialisation_is_mambas():
    scan = VSSBlock(32, d_state=4).scan
    torch.testing.assert_close(torch.exp(scan.A_log[0, 0]), torch.arange(1.0, 5.0))
    dt = torch.nn.functional.softplus(scan.dt_bias)
    assert dt.min() >= 0.99e-3
    assert dt.max() <= 1.01e-1
    assert scan.dt_rank == 2


def test_drop_path_drops_samples_in_training_only():
    block = VSSBlock(4, drop_path=0.5)
    x = torch.randn(64, 4, 3, 3)
    untouched = (block(x) == x).flatten(1).all(1)
    assert 10 < untouched.sum() < 54
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


def test_bad_arguments():
    with pytest.raises(
        ShapeError, match=r"VSSBlock expects x \(batch, 8, H, W\), every size at least 1, got \(1, 7, 4, 4\)"
    ):
        VSSBlock(8)(torch.zeros(1, 7, 4, 4))
    with pytest.raises(ShapeError, match=r"got \(1, 8, 0, 4\)"):
        VSSBlock(8)(torch.zeros(1, 8, 0, 4))
    with pytest.raises(ArgumentError, match="d_state must be an integer of at least 1, got 0"):
        VSSBlock(8, d_state=0)
    with pytest.raises(ArgumentError, match="dim must be an integer of at least 1, got True"):
        VSSBlock(True)
    with pytest.raises(ArgumentError, match=r"dim must be an integer of at least 1, got 8\.0"):
        VSSBlock(8.0)
    with pytest.raises(ArgumentError, match=r"drop_path must lie in \[0, 1\), got 1"):
        VSSBlock(8, drop_path=1)


def test_sizes_may_be_integers_of_numpy():
    x = torch.randn(1, 8, 3, 4)
    assert VSSBlock(np.int64(8), d_state=np.int32(3), expand=np.int64(1))(x).shape == x.shape


@pytest.mark.parametrize("shape", [(2, 7, 5, 9), (7, 5, 8), (2, 0, 5, 8), (2, 8, 7, 5)])
def test_a_scan_names_the_shape_that_it_needs(shape):
    with pytest.raises(ShapeError, match=r"SS2D expects u \(batch, H, W, 8\), every size at least 1, got \("):
        SS2D(d_inner=8, dt_rank=1)(torch.zeros(shape))
