"""Window attention: equals plain attention over each window's real positions, at any size."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmctx import WindowLocalAttention
from ssmctx.errors import ArgumentError, ShapeError


def windows(length: int, size: int, shift: bool) -> list[range]:
    """The stretches that a side of this length falls into."""
    first = size - size // 2 if shift else size
    edges = [0, *range(first, length, size), length] if first < length else [0, length]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def plain(layer: WindowLocalAttention, x: torch.Tensor) -> torch.Tensor:
    """One window after the other, one head after the other, no padding."""
    out = x.clone()
    size, heads, head_width = layer.window_size, layer.num_heads, layer.dim // layer.num_heads
    for rows in windows(x.shape[2], size, layer.shift):
        for columns in windows(x.shape[3], size, layer.shift):
            cells = [(r, c) for r in rows for c in columns]
            tokens = torch.stack([x[:, :, r, c] for r, c in cells], 1)
            q, k, v = layer.qkv(layer.norm(tokens)).chunk(3, -1)
            results = []
            for head in range(heads):
                part = slice(head * head_width, (head + 1) * head_width)
                bias = torch.stack(
                    [
                        torch.stack([layer.position_bias[head, a - c + size - 1, b - d + size - 1] for c, d in cells])
                        for a, b in cells
                    ]
                )
                weights = (q[..., part] @ k[..., part].mT / head_width**0.5 + bias).softmax(-1)
                results.append(weights @ v[..., part])
            result = layer.proj(torch.cat(results, -1))
            for i, (r, c) in enumerate(cells):
                out[:, :, r, c] += result[:, i]
    return out


@given(height=st.integers(1, 11), width=st.integers(1, 11), shift=st.booleans(), seed=st.integers(0, 2**20))
def test_equals_attention_over_real_positions(height, width, shift, seed):
    torch.manual_seed(seed)
    layer = WindowLocalAttention(6, window_size=4, num_heads=2, shift=shift).double()
    torch.nn.init.normal_(layer.position_bias)
    x = torch.randn(2, 6, height, width, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-10, atol=1e-10)


def test_the_equality_notices_padding_that_is_attended_to(monkeypatch):
    """Planted fault: no mask on padded positions."""
    attend = WindowLocalAttention._attend
    monkeypatch.setattr(WindowLocalAttention, "_attend", lambda self, w, padded, indices: attend(self, w, None, None))
    layer = WindowLocalAttention(6, window_size=4).double()
    x = torch.randn(1, 6, 5, 4, dtype=torch.float64)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(8, 8), (5, 8), (1, 3)])
def test_an_exported_layer_has_the_same_gradients(size):
    """Its sides that are multiples of the window have windows of padding only."""
    layer, x = WindowLocalAttention(8, window_size=4), torch.randn(2, 8, *size)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))
    exported(x).square().sum().backward()
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(exported.get_parameter(name).grad, parameter.grad)


def test_padding_has_the_bits_of_minus_infinity(monkeypatch):
    layer, x = WindowLocalAttention(8, window_size=4), torch.randn(2, 8, 5, 7)
    expected = layer(x)
    fill = torch.Tensor.masked_fill
    monkeypatch.setattr(torch.Tensor, "masked_fill", lambda x, mask, value: fill(x, mask, float("-inf")))
    assert torch.equal(layer(x), expected)


def test_windows_do_not_see_each_other():
    layer = WindowLocalAttention(8, window_size=4)
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[..., 4:, 4:] = float("nan")
    assert torch.equal(layer(x)[..., :4, :], layer(changed)[..., :4, :])


@pytest.mark.parametrize(("dim", "heads"), [(896, 28), (64, 2), (50, 2), (37, 37), (7, 1)])
def test_heads_are_as_wide_as_possible_up_to_32(dim, heads):
    assert WindowLocalAttention(dim).num_heads == heads


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="dim must be a multiple of num_heads, got dim=8, num_heads=3"):
        WindowLocalAttention(8, num_heads=3)
    with pytest.raises(ArgumentError, match="window_size must be an integer of at least 1, got -1"):
        WindowLocalAttention(8, window_size=-1)
    with pytest.raises(ShapeError, match=r"WindowLocalAttention expects x \(batch, 8, H, W\)"):
        WindowLocalAttention(8)(torch.zeros(8, 4, 4))
    with pytest.raises(ShapeError, match=r"expects windows \(batch, windows, 64, 8\), got \(1, 2, 16, 8\)"):
        WindowLocalAttention(8)(torch.zeros(1, 2, 16, 8), windows=True)
    with pytest.raises(ArgumentError, match="takes padded and indices with windows=True only"):
        WindowLocalAttention(8)(torch.zeros(1, 8, 4, 4), indices=torch.zeros(1, 1, dtype=torch.int64))
