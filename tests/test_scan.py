"""The scan: every backend equals the sequential float64 reference, gradients included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmctx.errors import ArgumentError, ShapeError, UnknownNameError
from ssmctx.registry import scan_backends
from ssmctx.scan import DIRECTIONS, chunked, cross_selective_scan
from ssmctx.scan.directions import from_sequences, scan_order, to_sequences

NAMES = ("u", "dt_raw", "A", "B", "C", "D", "dt_bias")
FAST = [name for name in scan_backends.names() if name != "reference"]


def arguments(seed, batch=1, height=3, width=4, d=5, states=2, directions=4, dtype=torch.float64, dt_shift=0.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    place = (batch, height, width)
    values = {
        "u": normal(*place, d),
        "dt_raw": normal(*place, directions, d) + dt_shift,
        "A": -normal(directions, d, states).exp(),
        "B": normal(*place, directions, states),
        "C": normal(*place, directions, states),
        "D": normal(directions, d),
        "dt_bias": normal(directions, d),
    }
    return {name: value.requires_grad_() for name, value in values.items()}


def outputs_and_gradients(values, backend, directions=DIRECTIONS):
    v = cross_selective_scan(**values, directions=directions, backend=backend)
    weight = torch.randn(v.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(v.dtype)
    gradients = torch.autograd.grad((v * weight).sum(), list(values.values()))
    return {"v": v.detach(), **dict(zip(NAMES, gradients, strict=True))}


def assert_close(actual, expected, bound):
    for name, value in expected.items():
        error = (actual[name].double() - value.double()).abs().max() / value.double().abs().max().clamp(min=1e-30)
        assert error <= bound, f"{name}: relative error {error:.2e} beyond {bound:.0e}"


sizes = st.integers(1, 9)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@given(
    seed=st.integers(0, 2**20),
    batch=st.integers(1, 3),
    height=sizes,
    width=sizes,
    d=sizes,
    states=st.integers(1, 17),
    directions=st.lists(st.sampled_from(DIRECTIONS), min_size=1, max_size=4),
    dt_shift=st.sampled_from([-12.0, 0.0, 6.0]),
    chunk=st.sampled_from([1, 64, 1 << 18]),
)
def test_backend_equals_reference(
    backend, dtype, bound, seed, batch, height, width, d, states, directions, dt_shift, chunk
):
    values = arguments(seed, batch, height, width, d, states, len(directions), torch.float64, dt_shift)
    truth = outputs_and_gradients(values, "reference", directions)
    cast = {name: value.detach().to(dtype).requires_grad_() for name, value in values.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "_CHUNK_ELEMENTS", chunk)
        assert_close(outputs_and_gradients(cast, backend, directions), truth, bound)


def test_the_equality_property_notices_a_lost_carry(monkeypatch):
    """Planted fault: chunks that forget the state before them."""
    states = chunked._states
    monkeypatch.setattr(chunked, "_CHUNK_ELEMENTS", 64)
    monkeypatch.setattr(chunked, "_states", lambda h, *rest: states(torch.zeros_like(h), *rest))
    values = arguments(0)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(outputs_and_gradients(values, "torch"), outputs_and_gradients(values, "reference"), 1e-12)


def test_the_reference_is_the_equation():
    """Two pixels, one state, by hand."""
    one = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    u = torch.tensor([2.0, 3.0], dtype=torch.float64).view(1, 1, 2, 1)
    raw = torch.tensor([0.5, -0.25], dtype=torch.float64).view(1, 1, 2, 1, 1)
    A, B, C = -0.7 * one[0, 0], torch.tensor([1.5, -2.0]).double().view(1, 1, 2, 1, 1), 0.5 * one.expand(1, 1, 2, 1, 1)
    D, bias = 0.25 * one[0, 0, 0], 0.1 * one[0, 0, 0]
    dt = torch.log1p(torch.exp(torch.tensor([0.6, -0.15], dtype=torch.float64)))
    h0 = dt[0] * 1.5 * 2
    h1 = torch.exp(-0.7 * dt[1]) * h0 + dt[1] * -2 * 3
    expected = torch.stack([0.5 * h0 + 0.25 * 2, 0.5 * h1 + 0.25 * 3])
    v = cross_selective_scan(u, raw, A, B, C, D, bias, ["row"], backend="reference")
    torch.testing.assert_close(v.flatten(), expected)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_are_those_of_finite_differences(backend):
    values = arguments(3, height=2, width=3, d=2, states=2)
    assert torch.autograd.gradcheck(lambda *a: cross_selective_scan(*a, backend=backend), list(values.values()))


@given(height=sizes, width=sizes)
def test_each_direction_visits_each_pixel_once(height, width):
    order = scan_order(height, width)
    assert torch.equal(order.sort(0).values, torch.arange(height * width)[:, None].expand(-1, 4))
    assert torch.equal(order[:, 2:], order[:, :2].flip(0))
    row, column = order // width, order % width
    assert torch.equal(row[:, 0] * width + column[:, 0], torch.arange(height * width))
    assert torch.equal(column[:, 1] * height + row[:, 1], torch.arange(height * width))


@given(height=sizes, width=sizes, seed=st.integers(0, 2**20))
def test_merging_is_the_adjoint_of_scattering(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    order = scan_order(height, width)
    x = torch.randn(2, height, width, 3, generator=generator, dtype=torch.float64)
    v = torch.randn(height * width, 4, 2, 3, generator=generator, dtype=torch.float64)
    left = (to_sequences(x, order) * v).sum()
    right = (x * from_sequences(v, order, height, width)).sum()
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_scanned_in_float32(dtype):
    values = {name: value.detach().to(dtype) for name, value in arguments(1, dtype=torch.float32).items()}
    v = cross_selective_scan(**values)
    wide = cross_selective_scan(**{name: value.float() for name, value in values.items()})
    assert v.dtype == dtype
    assert torch.equal(v, wide.to(dtype))


def test_autocast_does_not_reach_the_scan():
    values = arguments(1, dtype=torch.float32)
    plain = cross_selective_scan(**values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cross_selective_scan(**values), plain)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("dt_raw", (1, 3, 4, 4, 6)), ("B", (1, 3, 4, 3, 2)), ("C", (1, 3, 5, 4, 2)), ("D", (4, 4)), ("dt_bias", (5,))],
)
def test_a_wrong_shape_is_named(name, shape):
    values = arguments(0) | {name: torch.zeros(shape)}
    with pytest.raises(ShapeError, match=rf"{name} must be .* with u \(1, 3, 4, 5\), 4 directions, 2 states; got"):
        cross_selective_scan(**values)


def test_other_bad_arguments():
    values = arguments(0)
    with pytest.raises(ArgumentError, match=r"directions must be one or more of .*got \('diagonal',\)"):
        cross_selective_scan(**values, directions=["diagonal"])
    with pytest.raises(UnknownNameError, match=r"unknown scan backend 'tourch' \(did you mean 'torch'\?\)"):
        cross_selective_scan(**values, backend="tourch")
    with pytest.raises(
        ShapeError, match=r"u must be \(batch, H, W, d\) with every size at least 1, got \(1, 0, 4, 5\)"
    ):
        cross_selective_scan(**values | {"u": torch.zeros(1, 0, 4, 5)})
    with pytest.raises(ShapeError, match=r"A must be \(directions, d, N\), got \(5, 2\)"):
        cross_selective_scan(**values | {"A": torch.zeros(5, 2)})
