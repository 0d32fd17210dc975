"""Deconvolutions as a product of matrices: torch's, within rounding, with the same weights and gradients."""

import pytest
import torch
from torch import nn

from ssmctx.entropy import HyperSynthesis, coding_numerics
from ssmctx.layers import deconvolution
from ssmctx.layers.deconvolution import Deconv2d

# inputs, outputs, kernel, stride, padding, output_padding, bias
CASES = {
    "g_s": (5, 4, 3, 2, 1, 1, True),
    "pixels": (4, 3, 5, 2, 2, 1, True),
    "even kernel": (3, 2, 4, 2, 1, 0, True),
    "no overlap": (6, 2, 2, 2, 0, 0, False),
    "stride 1": (2, 3, 3, 1, 1, 0, True),
    "sides of their own": (2, 3, (3, 5), (2, 3), (1, 2), (1, 2), False),
}


def layers(case, kind=nn.ConvTranspose2d):
    torch.manual_seed(0)
    inputs, outputs, kernel, stride, padding, output_padding, bias = case
    return kind(inputs, outputs, kernel, stride, padding, output_padding, bias=bias).double()


@pytest.mark.parametrize("size", [(1, 1), (4, 7)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_as_torchs_with_its_gradients(case, size):
    layer = layers(case)
    x = torch.randn(2, case[0], *size, dtype=torch.float64, requires_grad=True)
    expected, actual = layer(x), deconvolution.folded(layer, x)
    torch.testing.assert_close(actual, expected)
    wanted = [x, *layer.parameters()]
    slope = torch.randn_like(expected)
    for one, other in zip(*(torch.autograd.grad(y, wanted, slope) for y in (actual, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_planted_fault_is_noticed(monkeypatch):
    """Columns that are added up one row too far down."""
    fold = deconvolution.F.fold
    monkeypatch.setattr(deconvolution.F, "fold", lambda *args, **kwargs: fold(*args, **kwargs).roll(1, 2))
    with pytest.raises(AssertionError, match="not close"):
        test_as_torchs_with_its_gradients(CASES["g_s"], (4, 7))


def test_used_where_kernels_must_be_deterministic_on_a_gpu_only(monkeypatch):
    calls = []
    folded = deconvolution.folded
    monkeypatch.setattr(deconvolution, "folded", lambda *args: calls.append(1) or folded(*args))
    layer, plain = layers(CASES["g_s"], Deconv2d), layers(CASES["g_s"])
    x = torch.randn(1, 5, 3, 4, dtype=torch.float64)
    with coding_numerics(layer):
        assert torch.equal(layer(x), plain(x))
    assert not calls
    monkeypatch.setattr(deconvolution, "_deterministic_cuda", lambda x: True)
    torch.testing.assert_close(layer(x), plain(x))
    assert len(calls) == 1
    torch.testing.assert_close(layer(x, [5, 7]), plain(x, [5, 7]))  # what a product does not know is left to torch
    torch.testing.assert_close(layer(x[0]), plain(x[0]))
    assert len(calls) == 1


def test_weights_keep_their_names():
    layer, plain = layers(CASES["g_s"], Deconv2d), layers(CASES["g_s"])
    assert isinstance(layer, nn.ConvTranspose2d)
    assert [*layer.state_dict()] == [*plain.state_dict()]
    assert [name for name in HyperSynthesis(6, 8, 4, depth=0).state_dict() if "scales" in name] == [
        f"scales.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_on_cuda_as_on_the_cpu_and_the_same_bits_every_time(case):
    layer = layers(case, Deconv2d)
    x = torch.randn(2, case[0], 9, 14, dtype=torch.float64)
    expected = layer(x)
    layer.float().cuda()
    with coding_numerics(layer), torch.no_grad():
        first, second = layer(x.float().cuda()), layer(x.float().cuda())
    assert torch.equal(first, second)
    torch.testing.assert_close(first.cpu().double(), expected, rtol=1e-5, atol=1e-5)
