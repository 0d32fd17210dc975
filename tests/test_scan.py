"""The scan: every backend equals the sequential float64 reference, gradients included."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmctx.errors import ArgumentError, BackendUnavailableError, NonFiniteError, ShapeError, UnknownNameError
from ssmctx.registry import scan_backends
from ssmctx.scan import DIRECTIONS, backends, chunked, cross_selective_scan
from ssmctx.scan import backend as backend_module
from ssmctx.scan.backend import load
from ssmctx.scan.cpu import sizes as cpu_sizes
from ssmctx.scan.directions import from_sequences, scan_order, to_sequences
from ssmctx.scan.inputs import ScanInputs
from ssmctx.scan.operator import scan

NAMES = ("u", "dt_raw", "A", "B", "C", "D", "dt_bias", "h0")
FAST = [name for name in scan_backends.names() if name != "reference" and load(name).unavailable() is None]
EXACT = [name for name in FAST if load(name).dtypes is None]  # those that compute in float64 too


def arguments(seed, batch=1, height=3, width=4, d=5, states=2, directions=4, dtype=torch.float64, dt_shift=0.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    grid = (batch, height, width)
    values = {
        "u": normal(*grid, d),
        "dt_raw": normal(*grid, directions, d) + dt_shift,
        "A": -normal(directions, d, states).exp(),
        "B": normal(*grid, directions, states),
        "C": normal(*grid, directions, states),
        "D": normal(directions, d),
        "dt_bias": normal(directions, d),
        "h0": normal(batch, directions, d, states),
    }
    return {name: value.requires_grad_() for name, value in values.items()}


def public(values):
    """The arguments of `cross_selective_scan`, which starts from zero states."""
    return {name: value for name, value in values.items() if name != "h0"}


def outputs_and_gradients(values, backend, directions=DIRECTIONS, softplus=True):
    v, last = scan(**values, directions=tuple(directions), softplus=softplus, backend=backend)
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (v, last)]
    total = (v * weights[0]).sum() + (last * weights[1]).sum()
    gradients = torch.autograd.grad(total, list(values.values()))
    return {"v": v.detach(), "last": last.detach(), **dict(zip(NAMES, gradients, strict=True))}


def side_by_side(values):
    """With dt_raw, B and C in one tensor, as they go with dt_weight."""
    return values | {"dt_raw": torch.cat([values[n] for n in ("dt_raw", "B", "C")], dim=-1), "B": None, "C": None}


def assert_close(actual, expected, bound):
    for name, value in expected.items():
        error = (actual[name].double() - value.double()).abs().max() / value.double().abs().max().clamp(min=1e-30)
        assert error <= bound, f"{name}: relative error {error:.2e} beyond {bound:.0e}"


def poison(patch):
    """Fresh memory is full of NaN, so that reading what was never written shows."""

    def full_of_nan(make):
        return lambda *shape, **options: make(*shape, **options).fill_(float("nan"))

    patch.setattr(torch.Tensor, "new_empty", full_of_nan(torch.Tensor.new_empty))
    for name in ("empty", "empty_like"):
        patch.setattr(torch, name, full_of_nan(getattr(torch, name)))


sizes = st.integers(1, 9)


@pytest.mark.parametrize(
    ("backend", "dtype", "bound"),
    [*((name, torch.float64, 1e-12) for name in EXACT), *((name, torch.float32, 2e-5) for name in FAST)],
)
@given(
    seed=st.integers(0, 2**20),
    batch=st.integers(1, 3),
    height=sizes,
    width=sizes,
    d=st.one_of(sizes, st.sampled_from([63, 64, 65, 130])),
    states=st.integers(1, 17),
    directions=st.lists(st.sampled_from(DIRECTIONS), min_size=1, max_size=4),
    softplus=st.booleans(),
    dt_shift=st.sampled_from([-12.0, 0.0, 6.0]),
    chunk=st.sampled_from([1, 64, 1 << 18]),
)
def test_backend_equals_reference(
    backend, dtype, bound, seed, batch, height, width, d, states, directions, softplus, dt_shift, chunk
):
    if not softplus:
        dt_shift = abs(dt_shift) + 4  # step sizes are positive
    values = arguments(seed, batch, height, width, d, states, len(directions), torch.float64, dt_shift)
    truth = outputs_and_gradients(values, "reference", directions, softplus)
    cast = {name: value.detach().to(dtype).requires_grad_() for name, value in values.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "_CHUNK_ELEMENTS", chunk)
        poison(patch)
        assert_close(outputs_and_gradients(cast, backend, directions, softplus), truth, bound)


@pytest.mark.parametrize("backend", FAST)
@given(
    seed=st.integers(0, 2**20),
    batch=st.integers(1, 2),
    width=st.integers(1, 40),
    d=st.sampled_from([1, 5, 16, 17, 70]),
    rank=st.integers(1, 18),
    directions=st.lists(st.sampled_from(DIRECTIONS), min_size=1, max_size=4),
)
def test_low_rank_step_sizes_are_the_product(backend, seed, batch, width, d, rank, directions):
    values = arguments(seed, batch, 1, width, d, 3, len(directions))
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 1, width, len(directions), rank)
    low = torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(len(directions), d, rank, generator=generator, dtype=torch.float64) * rank**-0.5

    def run(backend, dtype, multiply):
        x = {n: t.detach().to(dtype).requires_grad_() for n, t in (values | {"dt_raw": low, "weight": weight}).items()}
        factors, options = (x["dt_raw"], x.pop("weight")), (tuple(directions), True, backend)
        if multiply:
            v, last = scan(**x | {"dt_raw": torch.einsum("bhwkr,kdr->bhwkd", *factors)}, **named(options))
        else:
            v, last = scan(**side_by_side(x), **named(options), dt_weight=factors[1])
        gradients = torch.autograd.grad(v.square().sum() + last.sum(), [*x.values(), factors[1]])
        return dict(zip(("v", "last", *NAMES, "dt_weight"), (v.detach(), last.detach(), *gradients), strict=True))

    def named(options):
        return dict(zip(("directions", "softplus", "backend"), options, strict=True))

    with pytest.MonkeyPatch.context() as patch:
        poison(patch)
        found = run(backend, torch.float32, multiply=False)
    assert_close(found, run("reference", torch.float64, multiply=True), 2e-5)


@pytest.mark.parametrize("backend", FAST)
def test_channels_that_fill_no_vector_are_apart_from_others(backend):
    """Blocks of 6 channels after some of 64, whose biases alone would be step sizes far below 0."""
    values = arguments(8, batch=6, height=4, width=9, d=134, states=4)
    values = {n: x.detach() for n, x in values.items()}
    values["dt_raw"] = values["dt_raw"].abs() + 300
    values["dt_bias"] = torch.full_like(values["dt_bias"], -300.0)
    wide = {name: x.requires_grad_() for name, x in values.items()}
    single = {name: x.detach().float().requires_grad_() for name, x in values.items()}
    truth = outputs_and_gradients(wide, "reference", softplus=False)
    assert_close(outputs_and_gradients(single, backend, softplus=False), truth, 1e-2)  # raw has 5 digits behind 300


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("step", [-0.5, -130.0])
def test_states_that_outgrow_all_numbers_show(backend, step):
    """Steps below 0 let states grow: found as the reference has them, and never a number in place of infinity."""
    values = {n: x.float() for n, x in arguments(1, dt_shift=0.0).items()}
    values["A"], values["dt_bias"] = torch.full_like(values["A"], -1.0), torch.full_like(values["dt_bias"], step)
    values["dt_raw"] = torch.zeros_like(values["dt_raw"])
    v, last = scan(**values, directions=DIRECTIONS, softplus=False, backend=backend)
    expected = scan(**values, directions=DIRECTIONS, softplus=False, backend="reference")
    for found, wanted in zip((v, last), expected, strict=True):
        assert found.isfinite().all() == wanted.isfinite().all() == (step > -1)
        if step > -1:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-2)


@given(
    seed=st.integers(0, 2**20),
    height=st.integers(1, 9),
    width=st.integers(1, 40),
    d=st.sampled_from([1, 16, 70]),
    states=st.sampled_from([1, 4, 5]),
    rank=st.sampled_from([0, 3]),
)
def test_what_forward_keeps_changes_no_bit(seed, height, width, d, states, rank):
    backend = load("cpu")
    values = {n: x.detach().float() for n, x in arguments(seed, 2, height, width, d, states, len(DIRECTIONS)).items()}
    weight, shapes = [], {n: x.shape for n, x in values.items()}
    if rank:
        generator = torch.Generator().manual_seed(seed)
        together = torch.randn(2, height, width, len(DIRECTIONS), rank + 2 * states, generator=generator)
        values |= dict(zip(("dt_raw", "B", "C"), together.split([rank, states, states], dim=-1), strict=True))
        shapes |= {"dt_raw": together.shape, "B": None, "C": None}
        weight = [torch.randn(len(DIRECTIONS), d, rank, generator=generator)]
    inputs = ScanInputs._make([*values.values(), DIRECTIONS, True])
    with pytest.MonkeyPatch.context() as patch:
        poison(patch)
        v, last, kept = backend.forward_keeping(inputs, *weight)
        for found, expected in zip((v, last), backend.forward(inputs, *weight), strict=True):
            assert torch.equal(found, expected)
        gradients = backend.backward(v, last, inputs, *weight)
        expected_shapes = [*shapes.values(), *(x.shape for x in weight)]
        assert [None if x is None else x.shape for x in gradients] == expected_shapes
        for found, expected in zip(backend.backward(v, last, inputs, *weight, kept=kept), gradients, strict=True):
            assert found is expected is None or torch.equal(found, expected)
        if height * width > cpu_sizes.CHUNK:  # planted fault: other states than those that forward went through
            wrong = backend.backward(v, last, inputs, *weight, kept=torch.zeros_like(kept))
            assert not torch.equal(wrong[2], gradients[2])


def test_the_equality_property_notices_a_lost_carry(monkeypatch):
    """Planted fault: chunks that forget the state before them."""
    states = chunked._states
    monkeypatch.setattr(chunked, "_CHUNK_ELEMENTS", 64)
    monkeypatch.setattr(chunked, "_states", lambda h, *rest: states(torch.zeros_like(h), *rest))
    values = arguments(0)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(outputs_and_gradients(values, "torch"), outputs_and_gradients(values, "reference"), 1e-12)


@pytest.mark.parametrize("backend", FAST)
def test_long_sequences_and_wide_states(backend):
    """Several chunks of every kernel, N = 64, memory of thousands of positions."""
    values = arguments(5, height=40, width=9, d=70, states=64, dt_shift=-6.0)
    truth = outputs_and_gradients(values, "reference")
    single = {name: value.detach().float().requires_grad_() for name, value in values.items()}
    assert 4 * cpu_sizes.CHUNK < 40 * 9
    assert_close(outputs_and_gradients(single, backend), truth, 2e-5)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@given(seed=st.integers(0, 2**20), first=st.integers(1, 20), second=st.integers(1, 20))
def test_a_scan_in_two_halves_is_one_scan(backend, seed, first, second):
    values = {n: x.detach().float() for n, x in arguments(seed, 2, 1, first + second, 5, 3, 1).items()}
    options = {"directions": ("row",), "softplus": True, "backend": backend}
    v, last = scan(**values, **options)
    maps = ("u", "dt_raw", "B", "C")
    before = values | {n: values[n][:, :, :first] for n in maps}
    v_1, middle = scan(**before, **options)
    v_2, end = scan(**values | {n: values[n][:, :, first:] for n in maps} | {"h0": middle}, **options)
    torch.testing.assert_close(torch.cat([v_1, v_2], dim=2), v, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(end, last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", FAST)
def test_bits_do_not_depend_on_threads_or_repetition(backend):
    # a share of a thread is no integer of vectors, whatever the machine's vectors are
    values = arguments(2, 2, 7, 6, 151, 5, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            runs.append(outputs_and_gradients(values, backend))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(run[name], runs[0][name]) for name in ("v", "last", *NAMES))


@pytest.mark.parametrize("backend", EXACT)
def test_gradients_are_those_of_finite_differences(backend):
    values = arguments(3, height=2, width=3, d=2, states=2)
    run = lambda *tensors: scan(*tensors, DIRECTIONS, True, backend)  # noqa: E731
    assert torch.autograd.gradcheck(run, list(values.values()))


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


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_scanned_in_float32(backend, dtype):
    values = {name: value.detach().to(dtype) for name, value in public(arguments(1, dtype=torch.float32)).items()}
    v = cross_selective_scan(**values, backend=backend)
    wide = cross_selective_scan(**{name: value.float() for name, value in values.items()}, backend=backend)
    assert v.dtype == dtype
    assert torch.equal(v, wide.to(dtype))


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_autocast_does_not_reach_the_scan(backend):
    values = public(arguments(1, dtype=torch.float32))
    plain = cross_selective_scan(**values, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cross_selective_scan(**values, backend=backend), plain)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dt_shift", [-80.0, 80.0])
def test_extreme_step_sizes_stay_finite(backend, dt_shift):
    values = arguments(4, height=9, dtype=torch.float32, dt_shift=dt_shift)
    assert all(x.isfinite().all() for x in outputs_and_gradients(values, backend).values())


@pytest.mark.parametrize("backend", FAST)
def test_any_memory_layout(backend):
    values = {n: x.detach() for n, x in public(arguments(6, 2, 5, 6, dtype=torch.float32)).items()}
    strided = {n: x.transpose(0, -1).contiguous().transpose(0, -1) for n, x in values.items()}
    assert not strided["u"].is_contiguous()
    plain = cross_selective_scan(**values, backend=backend)
    assert torch.equal(cross_selective_scan(**strided, backend=backend), plain)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("dt_raw", (1, 3, 4, 4, 6)), ("B", (1, 3, 4, 3, 2)), ("C", (1, 3, 5, 4, 2)), ("D", (4, 4)), ("dt_bias", (5,))],
)
def test_a_wrong_shape_is_named(name, shape):
    values = public(arguments(0)) | {name: torch.zeros(shape)}
    with pytest.raises(ShapeError, match=rf"{name} must be .* for u \(1, 3, 4, 5\), 4 directions, 2 states, got"):
        cross_selective_scan(**values)


@pytest.mark.parametrize("name", ["u", "dt_raw", "B", "C", "D", "dt_bias"])
def test_nan_is_named(name):
    values = {n: x.detach().clone() for n, x in public(arguments(0)).items()}
    values[name].flatten()[-1] = float("nan")
    with pytest.raises(NonFiniteError, match=rf"^{name} must be finite, got NaN or an infinity in its \("):
        cross_selective_scan(**values)


def test_other_bad_arguments():
    values = {n: x.detach() for n, x in public(arguments(0)).items()}
    with pytest.raises(ArgumentError, match=r"directions must be one or more of .*got \('diagonal',\)"):
        cross_selective_scan(**values, directions=["diagonal"])
    with pytest.raises(UnknownNameError, match=r"unknown scan backend 'tourch' \(did you mean 'torch'\?\)"):
        cross_selective_scan(**values, backend="tourch")
    with pytest.raises(
        ShapeError, match=r"u must be \(batch, H, W, d\) with every size at least 1, got \(1, 0, 4, 5\)"
    ):
        cross_selective_scan(**values | {"u": torch.zeros(1, 0, 4, 5)})
    with pytest.raises(ShapeError, match=r"A must be \(directions, d, N\) with N at least 1, got \(5, 2\)"):
        cross_selective_scan(**values | {"A": torch.zeros(5, 2)})
    stateless = {name: values[name][..., :0] for name in ("A", "B", "C")}
    for backend in ("auto", "torch", "reference"):
        with pytest.raises(ShapeError, match=r"A must be .* with N at least 1, got \(4, 5, 0\)"):
            cross_selective_scan(**values | stateless, backend=backend)
    with pytest.raises(ArgumentError, match=r"A must be negative everywhere, got 0\.0 in its \(4, 5, 2\)"):
        cross_selective_scan(**values | {"A": torch.zeros(4, 5, 2)})
    with pytest.raises(ArgumentError, match=r"B must be of a real floating type, got torch\.int64"):
        cross_selective_scan(**values | {"B": values["B"].long()})
    with pytest.raises(ArgumentError, match=r"C must be on u's device cpu, got meta of shape \(1, 3, 4, 4, 2\)"):
        cross_selective_scan(**values | {"C": values["C"].to("meta")})


# --- choosing a backend


def test_an_explicit_backend_that_cannot_run_says_why():
    values = {n: x.detach() for n, x in public(arguments(0)).items()}
    with pytest.raises(
        BackendUnavailableError,
        match=r"'cpu' cannot be used: it computes in torch\.float32, the tensors are .*\. Choose another",
    ):
        cross_selective_scan(**values, backend="cpu")
    single = {n: x.float() for n, x in public(arguments(0, states=65)).items()}
    with pytest.raises(BackendUnavailableError, match="it takes up to 64 states, A has 65"):
        cross_selective_scan(**single, backend="cpu")
    if reason := load("mamba_ssm").unavailable():
        with pytest.raises(BackendUnavailableError, match=reason.split("'")[0]):
            cross_selective_scan(**single, backend="mamba_ssm")


def test_auto_takes_the_fastest_that_can():
    values = {n: x.detach() for n, x in public(arguments(0)).items()}
    single = {n: x.float() for n, x in values.items()}
    fastest = cross_selective_scan(**single, backend="cpu")
    assert torch.equal(cross_selective_scan(**single), fastest)
    assert torch.equal(cross_selective_scan(**values), cross_selective_scan(**values, backend="torch"))


def test_auto_says_once_what_it_took_and_why_not_another(caplog):
    caplog.set_level("INFO", logger="ssmctx")
    backend_module._first.cache_clear()
    values = {n: x.detach() for n, x in public(arguments(0)).items()}
    for _ in range(2):
        cross_selective_scan(**values)
    refusal, choice = caplog.messages
    assert refusal.startswith("scan on cpu in torch.float64: not backend 'cpu', it computes in torch.float32")
    assert choice == "scan on cpu in torch.float64: backend 'torch'"
    assert {record.levelname for record in caplog.records} == {"INFO"}


@pytest.fixture
def registered(monkeypatch):
    """Registers a backend for one test."""
    monkeypatch.setattr(scan_backends, "_targets", dict(scan_backends._targets))

    def register(name, make):
        load.cache_clear()
        scan_backends.register(name, make)

    yield register
    load.cache_clear()


def chosen(device="cpu", dtype=torch.float32, states=4):
    return backend_module.resolve("auto", torch.device(device), dtype, states).name


def third_party(name, **fields):
    return lambda: dataclasses.replace(load("torch"), name=name, **fields)


def test_auto_takes_the_highest_priority_of_all_that_are_registered(registered):
    assert chosen() == "cpu"
    registered("zz-fast", third_party("zz-fast", priority=11))
    assert chosen() == "zz-fast"
    registered("aa-fast", third_party("aa-fast", priority=11))  # of equals the first by name, registered last or not
    assert chosen() == "aa-fast"
    registered("few-states", third_party("few-states", priority=12, max_states=3))
    registered("elsewhere", third_party("elsewhere", priority=12, auto_devices=("cuda",)))
    assert chosen() == "aa-fast"
    assert chosen(states=3) == "few-states"
    assert chosen("meta") == "aa-fast"
    assert torch.equal(
        *(scan(**arguments(0), directions=DIRECTIONS, softplus=True, backend=n)[0] for n in ("auto", "torch"))
    )


def test_auto_takes_none_that_does_not_ask_for_it(registered):
    registered("aa-modest", third_party("aa-modest", priority=0))
    assert chosen() == "cpu"
    assert chosen(dtype=torch.float64) == chosen("meta") == chosen("xpu") == "torch"
    declared = {name: (load(name).priority, load(name).auto_devices) for name in scan_backends.names()}
    assert {name for name, (priority, _) in declared.items() if priority} == {"cpu", "torch", "triton"}
    assert declared["triton"] == (10, ("cuda",))  # in its interpreter it runs on the CPU too, slowly


def test_a_backend_that_cannot_be_loaded_stops_nobody_else(registered, caplog, capsys):
    registered("broken", "no_such_module:backend")
    assert chosen() == "cpu"
    assert any("scan backend 'broken' cannot be loaded: ModuleNotFoundError" in m for m in caplog.messages)
    backends()
    assert "broken     no         it cannot be loaded: ModuleNotFoundError" in capsys.readouterr().out


def test_a_backend_that_fails_to_answer_stops_nobody_else(registered, caplog, capsys):
    def fails():
        raise OSError("no driver")

    caplog.set_level("INFO", logger="ssmctx")
    registered("raises", third_party("raises", priority=20, unavailable=fails))
    assert chosen() == "cpu"
    assert "scan on cpu in torch.float32: not backend 'raises', it failed: OSError('no driver')" in caplog.messages
    backends()
    assert "raises     no         it failed: OSError('no driver')" in capsys.readouterr().out


def test_auto_takes_a_backend_that_autograd_differentiates(registered):
    calls = []

    def forward(inputs):
        calls.append(inputs)
        return chunked.differentiable(inputs)

    fields = {"forward": forward, "backward": None, "differentiable": None}
    registered("by-autograd", third_party("by-autograd", priority=20, **fields))
    values = arguments(0)
    assert_close(outputs_and_gradients(values, "auto"), outputs_and_gradients(values, "torch"), 1e-12)
    assert len(calls) == 1
    single = {name: value.detach() for name, value in public(values).items()}
    torch.func.vmap(lambda u: cross_selective_scan(**single | {"u": u}))(single["u"][None])
    assert len(calls) == 1  # the transforms of torch.func get "torch"


def test_results_do_not_keep_the_parts_of_directions_in_memory():
    results = outputs_and_gradients(arguments(0, dtype=torch.float32), "cpu")
    for name, result in results.items():
        assert result.untyped_storage().nbytes() == result.nbytes, name


def test_the_table_lists_every_backend(capsys):
    backends()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(scan_backends.names())
    assert all(" yes" in line or len(line.split()) > 2 for line in lines[1:])
