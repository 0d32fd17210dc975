"""The scan as an operator of torch, as a function of sequences, and among threads and forks."""

import ctypes
import subprocess
import sys
import threading
import types
from array import array
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_scan import FAST, arguments, assert_close, public, side_by_side
from torch.utils._python_dispatch import TorchDispatchMode

from ssmctx import VSSBlock
from ssmctx.errors import ArgumentError, BackendUnavailableError, NonFiniteError, ShapeError
from ssmctx.scan import DIRECTIONS, chunked, cross_selective_scan, mamba_ssm, operator, selective_scan, sequence
from ssmctx.scan.cpu import launch
from ssmctx.scan.cpu import threads as share
from ssmctx.scan.inputs import ScanInputs
from ssmctx.scan.operator import scan

# --- torch.library


@pytest.mark.parametrize("backend", FAST)
def test_opcheck(backend):
    values = arguments(0, dtype=torch.float32)
    options = ("row column row-reversed column-reversed", True, backend)
    torch.library.opcheck(torch.ops.ssmctx.scan.default, (*values.values(), *options, None))
    weight = torch.randn(4, 5, 3, requires_grad=True)
    values["dt_raw"] = torch.randn(1, 3, 4, 4, 3 + 2 * 2, requires_grad=True)
    values |= {"B": None, "C": None}
    torch.library.opcheck(torch.ops.ssmctx.scan.default, (*values.values(), *options, weight))


@pytest.mark.parametrize("backend", ["auto", *FAST])
def test_compiles_whole(backend):
    block = VSSBlock(8, d_state=3, scan_backend=backend)
    x = torch.randn(1, 8, 5, 6)
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    expected = block(x)
    torch.testing.assert_close(compiled(x), expected)
    gradients = [torch.autograd.grad(f(x).square().sum(), list(block.parameters())) for f in (block, compiled)]
    for plain, through_compile in zip(*gradients, strict=True):
        torch.testing.assert_close(through_compile, plain)


def test_a_backend_that_autograd_differentiates_does_not_compile():
    block = VSSBlock(8, d_state=3, scan_backend="reference")
    torch._dynamo.reset()
    compiled = torch.compile(block, backend="aot_eager")
    with pytest.raises(Exception, match="'reference' is differentiated by autograd"):
        compiled(torch.randn(1, 8, 5, 6)).sum().backward()


def test_the_public_function_compiles_whole():
    values = {n: x.detach() for n, x in public(arguments(0, dtype=torch.float32)).items()}
    torch._dynamo.reset()
    compiled = torch.compile(cross_selective_scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**values), cross_selective_scan(**values))


def test_exports():
    block = VSSBlock(8, d_state=3).eval()
    x = torch.randn(1, 8, 5, 6)
    program = torch.export.export(block, (x,))
    torch.testing.assert_close(program.module()(x), block(x))


def sizes_of(batch, height, width):
    values = public(arguments(3, batch, height, width, dtype=torch.float32))
    image = tuple(values[name].detach() for name in ("u", "dt_raw", "A", "B", "C", "D", "dt_bias"))
    weights = torch.randn(batch, 2, height, width)  # grouped for B, per position for C
    sequence = (torch.randn(batch, 4, width), torch.rand(batch, 4, width), -torch.ones(4, height), weights)
    return {"image": image, "sequence": sequence}


class Scans(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, *values):
        if self.kind == "image":
            return cross_selective_scan(*values)
        u, delta, A, weights = values
        return selective_scan(u, delta, A, weights, weights[:, 0], delta_softplus=True)


@pytest.mark.parametrize("kind", ["image", "sequence"])
def test_traces_for_any_size(kind):
    """What a trace took for a constant would send the kernels past the end of their arrays."""
    traced = torch.jit.trace(Scans(kind), sizes_of(1, 3, 4)[kind])
    for size in ((1, 3, 4), (3, 3, 7)):
        values = sizes_of(*size)[kind]
        assert torch.equal(traced(*values), Scans(kind)(*values))


@pytest.mark.parametrize("kind", ["image", "sequence"])
def test_exports_for_any_size(kind):
    batch, width = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("width", min=1, max=64)
    last = {0: batch, 2: width}
    shapes = {
        "image": (last, last, {}, last, last, {}, {}),
        "sequence": (last, last, {}, {0: batch, 3: width}),
    }[kind]
    values = sizes_of(2, 3, 4)[kind]
    program = torch.export.export(Scans(kind), values, dynamic_shapes=(shapes,)).module()
    for size in ((2, 3, 4), (3, 3, 7)):
        values = sizes_of(*size)[kind]
        assert torch.equal(program(*values), Scans(kind)(*values))


@pytest.mark.parametrize("name", ["dt_raw", "A", "B", "C", "D", "dt_bias", "h0"])
def test_the_operator_refuses_shapes_that_its_kernels_would_overrun(name):
    values = {n: x.detach() for n, x in arguments(0, batch=2, dtype=torch.float32).items()}
    values[name] = values[name][:1]
    with pytest.raises(ShapeError, match=rf"the scan operator's {name} must be \(.*\) for u \(2, 3, 4, 5\), got \(1, "):
        torch.ops.ssmctx.scan(*values.values(), "row column row-reversed column-reversed", True, "cpu", None)


@pytest.mark.parametrize("wrong", ["dt_raw", "dt_weight"])
def test_the_operator_refuses_low_rank_shapes_that_its_kernels_would_overrun(wrong):
    values = {n: x.detach() for n, x in arguments(0, dtype=torch.float32).items()} | {"dt_weight": torch.ones(4, 5, 3)}
    values = side_by_side(values | {"dt_raw": torch.ones(1, 3, 4, 4, 3)})
    values[wrong] = values[wrong][..., :-1]
    with pytest.raises(
        ShapeError, match=r"operator's dt_raw must be \(1, 3, 4, 4, [67]\) for u \(1, 3, 4, 5\), got \(1, "
    ):
        scan(**values, directions=DIRECTIONS, softplus=True, backend="cpu")
    with pytest.raises(ArgumentError, match="takes either B and C, or dt_weight with B and C in dt_raw"):
        scan(**values | {"dt_weight": None}, directions=DIRECTIONS, softplus=True, backend="cpu")
    with pytest.raises(ArgumentError, match="takes either B and C, or dt_weight with B and C in dt_raw"):
        scan(**values | {"B": torch.ones(1, 3, 4, 4, 2)}, directions=DIRECTIONS, softplus=True, backend="cpu")


# --- without the dispatcher


class Seen(TorchDispatchMode):
    """The names of the operators that torch dispatches."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_the_operators_and_gets_the_same_bits():
    values = public(arguments(0, dtype=torch.float32))

    def results():
        v = cross_selective_scan(**values)
        return v, *torch.autograd.grad(v.square().sum(), list(values.values()))

    alone = results()
    with Seen() as seen:
        watched = results()
    assert {"ssmctx::scan", "ssmctx::scan_backward"} <= set(seen.names)
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))


def test_plain_tensors_leave_the_dispatcher_out():
    """Its first call of an operator made in Python imports torch._dynamo: more than a second of a command's start."""
    code = """
import sys, torch
from ssmctx import VSSBlock
with torch.inference_mode():
    VSSBlock(4, d_state=2)(torch.randn(1, 4, 3, 5))
VSSBlock(4, d_state=2)(torch.randn(1, 4, 3, 5)).sum().backward()
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


# --- torch.func and second derivatives


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_gradients_of_each_sample(backend):
    values = {n: x.detach() for n, x in public(arguments(0, batch=1)).items()}
    samples = torch.randn(3, *values["u"].shape, dtype=torch.float64)
    loss = lambda v, u: cross_selective_scan(**v | {"u": u}, backend=backend).square().sum()  # noqa: E731
    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(values, samples)
    for i, u in enumerate(samples):
        leaves = {n: x.clone().requires_grad_() for n, x in values.items() if n != "u"}
        alone = torch.autograd.grad(loss(leaves, u), list(leaves.values()))
        assert_close({n: x[i] for n, x in together.items()}, dict(zip(leaves, alone, strict=True)), 1e-12)
    sequences = torch.func.vmap(lambda u: selective_scan(u, u.abs(), -torch.ones(5, 2), *[torch.ones(1, 2, 6)] * 2))
    assert sequences(torch.randn(3, 1, 5, 6)).shape == (3, 1, 5, 6)


def test_torch_code_is_the_torch_backend():
    values = {n: x.detach() for n, x in arguments(1, 2, 4, 5).items()}
    inputs = ScanInputs(*values.values(), DIRECTIONS, True)
    for actual, expected in zip(chunked.differentiable(inputs), chunked.forward(inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-14)


def test_second_derivatives_with_the_torch_backend():
    values = arguments(3, height=2, width=3, d=2, states=2)
    run = lambda *tensors: scan(*tensors, DIRECTIONS, True, "torch")  # noqa: E731
    assert torch.autograd.gradgradcheck(run, list(values.values()))
    # the Hessian of a loss times a vector, with low-rank step sizes, as the reference has it
    products = []
    for backend in ("torch", "reference"):
        x = arguments(4, height=2, width=3)
        x |= {"dt_raw": x["dt_raw"][..., :2].detach().requires_grad_()}
        weight = torch.linspace(-1, 1, 4 * 5 * 2).double().view(4, 5, 2).requires_grad_()
        options = {"directions": DIRECTIONS, "softplus": True, "backend": backend}
        v, last = scan(**side_by_side(x), **options, dt_weight=weight)
        leaves = {**x, "dt_weight": weight}
        first = torch.autograd.grad(v.square().sum() + last.sum(), list(leaves.values()), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), list(leaves.values()))
        products.append(dict(zip(leaves, second, strict=True)))
    assert_close(*products, 1e-10)


@pytest.mark.parametrize(("parts", "made"), [(1, []), (4, [4, 4, 4]), (5, []), (32, [8, 8, 8])])
def test_the_gradient_of_low_rank_weights_is_the_same_in_parts(monkeypatch, parts, made):
    """Of 2 x 3 x 4 positions, which parts must divide, where they are many."""
    steps, low_rank = (torch.randn(2, 3, 4, 3, n).double() for n in (5, 2))
    expected = torch.einsum("bhwkd,bhwkr->kdr", steps, low_rank)
    assert torch.equal(operator._gradient_of_weight(steps, low_rank, parts), expected)  # 24 are few
    products, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: products.append(len(a)) or bmm(a, b))
    monkeypatch.setattr(operator, "_LARGE", 24)
    torch.testing.assert_close(operator._gradient_of_weight(steps, low_rank, parts), expected)
    assert products == made


def test_whole_step_sizes_are_written_in_the_order_of_the_kernels():
    low_rank, weight = torch.randn(2, 3, 5, 4, 6)[..., :2], torch.randn(4, 7, 2)
    steps = operator._whole_steps(low_rank, weight)
    assert steps.is_contiguous()
    torch.testing.assert_close(steps, torch.einsum("bhwkr,kdr->bhwkd", low_rank, weight))


def test_what_has_no_second_derivatives_says_so():
    values = arguments(0, dtype=torch.float32)
    for backend in ("cpu", "auto"):
        v, _ = scan(**values, directions=DIRECTIONS, softplus=True, backend=backend)
        (du,) = torch.autograd.grad(v.square().sum(), values["u"], create_graph=True)
        with pytest.raises(BackendUnavailableError, match=r"'cpu' has no second derivatives .*; choose 'torch'"):
            du.sum().backward()
    v, _ = scan(**values, directions=DIRECTIONS, softplus=True, backend="torch")
    (du,) = torch.autograd.grad(v.square().sum(), values["u"], create_graph=True)
    with pytest.raises(BackendUnavailableError, match="'torch' has no third derivatives; choose 'reference'"):
        torch.autograd.grad(du.sum(), values["u"], create_graph=True)
    u = values["u"].detach()
    scan_of = lambda u: cross_selective_scan(**public(values) | {"u": u}, backend="cpu").sum()  # noqa: E731
    with pytest.raises(BackendUnavailableError, match=r"'cpu' cannot be used under the transforms of torch\.func"):
        torch.func.grad(scan_of)(u)


def test_twice_without_gradients():
    values = arguments(0, dtype=torch.float32)
    with torch.no_grad():
        first, second = (cross_selective_scan(**public(values)) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad


# --- sequences, as mamba_ssm has them


def naive(u, delta, A, B, C, D, z, bias, softplus, h):
    delta = delta + bias[:, None]
    delta = F.softplus(delta) if softplus else delta
    out = []
    for t in range(u.shape[2]):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta[:, :, t] * u[:, :, t])[..., None] * B[..., t]
        out.append((h * C[..., t]).sum(-1) + D * u[:, :, t])
    return torch.stack(out, 2) * F.silu(z), h


def per_channel(x, channels, length):
    """Weights of any form as (batch, d, N, L)."""
    if x.dim() == 2:
        return x[None, :, :, None].expand(-1, -1, -1, length)
    return x[:, None] if x.dim() == 3 else x.repeat_interleave(channels // x.shape[1], dim=1)


@pytest.mark.parametrize("form", ["fixed", "shared", "grouped"])
@given(seed=st.integers(0, 2**20), batch=st.integers(1, 2), length=st.integers(1, 9), softplus=st.booleans())
def test_sequences_equal_the_naive_loop(form, seed, batch, length, softplus):
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    d, N = 6, 3
    shape = {"fixed": (d, N), "shared": (batch, N, length), "grouped": (batch, 2, N, length)}[form]
    u, z, A, B, C, D, bias = (normal(*s) for s in [(batch, d, length)] * 2 + [(d, N), shape, shape, (d,), (d,)])
    delta, A, h0 = normal(batch, d, length).abs(), -A.abs() - 0.01, normal(batch, d, N)
    bias = bias if softplus else bias.abs()
    expected = naive(u, delta, A, *(per_channel(x, d, length) for x in (B, C)), D, z, bias, softplus, h0)
    actual = selective_scan(u, delta, A, B, C, D, z, bias, softplus, return_last_state=True, initial_state=h0)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


FORMS = {"fixed": (12, 3), "per position": (2, 3, 5), **{f"{g} groups": (2, g, 3, 5) for g in (1, 2, 3, 4, 6, 12)}}


def channel_by_channel(u, delta, A, B, C, D, z, delta_bias, initial_state):
    """The equation as a loop over channels and positions; group g serves the 12 / groups channels from there on."""

    def weights(x, i, t):
        if x.dim() == 2:
            return x[i]
        return x[:, :, t] if x.dim() == 3 else x[:, i // (12 // x.shape[1]), :, t]

    out, last = [], []
    for i in range(12):
        h = initial_state[:, i]
        dt = F.softplus(delta[:, i] + delta_bias[i])
        for t in range(5):
            h = torch.exp(dt[:, t, None] * A[i]) * h + (dt[:, t] * u[:, i, t])[:, None] * weights(B, i, t)
            out.append((weights(C, i, t) * h).sum(-1) + D[i] * u[:, i, t])
        last.append(h)
    return torch.stack(out, 1).view(2, 12, 5) * F.silu(z), torch.stack(last, 1)


@pytest.mark.parametrize("form_of_C", FORMS)
@pytest.mark.parametrize("form_of_B", FORMS)
def test_every_form_of_weights_beside_every_other(form_of_B, form_of_C):
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    values = {
        "u": normal(2, 12, 5),
        "delta": normal(2, 12, 5),
        "A": -normal(12, 3).exp(),
        "B": normal(*FORMS[form_of_B]),
        "C": normal(*FORMS[form_of_C]),
        "D": normal(12),
        "z": normal(2, 12, 5),
        "delta_bias": normal(12),
        "initial_state": normal(2, 12, 3),
    }
    weights = normal(2, 12, 5), normal(2, 12, 3)

    def outputs_and_gradients(run, dtype):
        x = {name: value.to(dtype).requires_grad_() for name, value in values.items()}
        results = run(x)
        total = sum((result * weight.to(dtype)).sum() for result, weight in zip(results, weights, strict=True))
        gradients = torch.autograd.grad(total, list(x.values()))
        return dict(zip(("out", "last", *x), (*(r.detach() for r in results), *gradients), strict=True))

    def ours(backend):
        options = {"delta_softplus": True, "return_last_state": True, "backend": backend}
        return lambda x: selective_scan(**x, **options)

    truth = outputs_and_gradients(lambda x: channel_by_channel(**x), torch.float64)
    assert_close(outputs_and_gradients(ours("torch"), torch.float64), truth, 1e-12)
    assert_close(outputs_and_gradients(ours("cpu"), torch.float32), truth, 2e-5)


def test_fixed_weights_need_a_call_for_64_channels(monkeypatch):
    calls = []

    def counted(u, *rest):
        calls.append(u.shape[-1])
        return scan(u, *rest)

    monkeypatch.setattr(sequence, "scan", counted)
    u, fixed, B = torch.randn(1, 130, 7), torch.randn(130, 3), torch.randn(1, 10, 3, 7)
    for weights in ((fixed, fixed), (fixed, B), (B, fixed)):
        calls.clear()
        selective_scan(u, u.abs(), -fixed.exp(), *weights)
        assert calls == [3 * 64, 3 * 64, 3 * 2]
    calls.clear()
    selective_scan(u, u.abs(), -fixed.exp(), B, torch.randn(1, 26, 3, 7))
    assert calls == [1] * 130  # channels that share a group of both
    calls.clear()
    selective_scan(u, u.abs(), -fixed.exp(), B, torch.randn(1, 5, 3, 7))
    assert calls == [13] * 10


def test_sequences_need_no_more_than_the_five():
    u, B = torch.randn(2, 4, 7), torch.randn(2, 3, 7)
    out = selective_scan(u, torch.rand(2, 4, 7), -torch.rand(4, 3) - 0.1, B, B)
    assert out.shape == u.shape


def test_bad_sequences():
    u, B, A = torch.randn(2, 4, 7), torch.randn(2, 3, 7), -torch.ones(4, 3)
    with pytest.raises(ShapeError, match=r"delta must be \(2, 4, 7\) for u \(2, 4, 7\), got \(2, 4, 8\)"):
        selective_scan(u, torch.rand(2, 4, 8), A, B, B)
    with pytest.raises(ShapeError, match=r"A must be \(4, N\) with N at least 1 for u \(2, 4, 7\), got \(5, 3\)"):
        selective_scan(u, u, -torch.ones(5, 3), B, B)
    with pytest.raises(ShapeError, match=r"A must be \(4, N\) with N at least 1 for u \(2, 4, 7\), got \(4, 0\)"):
        selective_scan(u, u, A[:, :0], B[:, :0], B[:, :0])
    with pytest.raises(
        ShapeError, match=r"C must be \(4, 3\), \(2, 3, 7\) or .* groups that divide 4, got \(2, 3, 3, 7\)"
    ):
        selective_scan(u, u, A, B, torch.randn(2, 3, 3, 7))
    with pytest.raises(ShapeError, match=r"B must be .* groups that divide 4, got \(2, 0, 3, 7\)"):
        selective_scan(u, u, A, torch.randn(2, 0, 3, 7), B)
    with pytest.raises(ShapeError, match=r"B must be .* groups that divide 4, got \(4,\)"):
        selective_scan(u, u, A, torch.randn(4), B)
    with pytest.raises(ShapeError, match=r"u must be \(batch, d, L\)"):
        selective_scan(u[0], u, A, B, B)
    with pytest.raises(ArgumentError, match=r"A must be negative everywhere, got 1\.0"):
        selective_scan(u, u, -A, B, B)
    with pytest.raises(NonFiniteError, match="delta must be finite"):
        selective_scan(u, u * float("inf"), A, B, B)


# --- the adapter to mamba_ssm, against a stand-in with its signature and layout


def stand_in(u, delta, A, B, C, D, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    assert z is None
    assert return_last_state
    weights = (per_channel(x, u.shape[1], u.shape[2]) for x in (B, C))
    h = u.new_zeros(len(u), *A.shape)
    v, last = naive(u, delta, A, *weights, D, torch.full_like(u, 1e9), delta_bias, delta_softplus, h)
    return v / 1e9, last


def test_the_mamba_ssm_adapter_speaks_its_layout(monkeypatch):
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = stand_in
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    values = {n: x.detach() for n, x in arguments(0, batch=2).items()} | {"h0": torch.zeros(2, 4, 5, 2).double()}
    directions = ("row", "column", "row-reversed", "column-reversed")
    actual = mamba_ssm.forward(ScanInputs(*values.values(), directions, True))
    expected = scan(**values, directions=directions, softplus=True, backend="reference")
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)
    with pytest.raises(ArgumentError, match="'mamba_ssm' starts from zero states"):
        mamba_ssm.forward(
            ScanInputs(**values | {"h0": torch.ones(2, 4, 5, 2).double()}, directions=directions, softplus=True)
        )


# --- threads and forks


def test_two_python_threads_may_scan_at_once():
    values = public(arguments(1, 4, 12, 12, 130, dtype=torch.float32))
    expected = cross_selective_scan(**values, backend="cpu")
    results = [None] * 4

    def work(i):
        for _ in range(5):
            results[i] = cross_selective_scan(**values, backend="cpu")

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("threads", ["torch's", "of a pool"])
def test_torchs_threads_and_a_pool_share_out_alike(threads, monkeypatch):
    """The pool is for platforms where torch has no GNU OpenMP."""
    if threads == "of a pool":
        monkeypatch.setattr(share, "_openmp", lambda: None)
    elif share._openmp() is None:
        pytest.skip("this torch was not built with GNU OpenMP")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    together, names = threading.Barrier(3, timeout=60), []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def kernel(address):
        together.wait()
        names.append((address, threading.get_ident()))

    call = array("q", [0, 0, 0])
    share.share_out(kernel, call, 9)
    assert {address for address, _ in names} == {call.buffer_info()[0]}
    assert len({thread for _, thread in names}) == 3
    values = public(arguments(1, 4, 12, 12, 130, dtype=torch.float32))
    found = cross_selective_scan(**values, backend="cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert torch.equal(found, cross_selective_scan(**values, backend="cpu"))


FORKING = """
import torch
from ssmctx import VSSBlock
from torch.utils.data import DataLoader, Dataset

block = VSSBlock(72, scan_backend="cpu").eval()
x = torch.randn(4, 72, 6, 7)
with torch.no_grad():
    expected = block(x)

    class Scans(Dataset):
        def __len__(self):
            return 4
        def __getitem__(self, index):
            # two threads of ours, one of torch's own: its OpenMP pool does not survive a fork
            torch.get_num_threads = lambda: 2
            with torch.no_grad():
                return block(x)

    for result in DataLoader(Scans(), batch_size=None, num_workers=2, multiprocessing_context="fork"):
        torch.testing.assert_close(result, expected)
    torch.testing.assert_close(block(x), expected)
print("fine")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_forked_data_loader_workers_may_scan():
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "fine\n", done.stderr


OUTLIVING = """
import sys, threading, torch
from ssmctx import VSSBlock

torch.set_num_threads(2)
block, x = VSSBlock(72, scan_backend="cpu"), torch.randn(1, 72, 12, 13)
if "warm" in sys.argv:
    block(x)

def work():
    threading.main_thread().join()
    results = [block(x) for _ in range(2)]
    for y in results:
        y.sum().backward()
    torch.set_num_threads(1)
    assert torch.equal(results[0], block(x))
    print("fine", flush=True)

threading.Thread(target=work).start()
"""


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_a_thread_that_outlives_the_main_thread_may_scan(start):
    done = subprocess.run([sys.executable, "-c", OUTLIVING, start], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


def test_the_kernels_are_cached_on_disk():
    from ssmctx.scan.cpu import kernels

    cross_selective_scan(**public(arguments(1, dtype=torch.float32)), backend="cpu")
    folder = Path(kernels.scan_forward()._cache.cache_path)
    assert any(file.name.startswith("kernels.scan_forward_") for file in folder.iterdir())


def test_a_kernel_that_leaves_tasks_undone_is_an_error(monkeypatch):
    """A C function cannot raise, so one that finds no memory does not count its tasks as finished."""
    monkeypatch.setattr(launch, "share_out", lambda kernel, call, tasks: None)
    with pytest.raises(MemoryError, match="the cpu scan found no memory"):
        cross_selective_scan(**public(arguments(1, dtype=torch.float32)), backend="cpu")


def test_views_that_stand_for_their_negative():
    values = public(arguments(1, dtype=torch.float32))
    expected = cross_selective_scan(**values, backend="cpu")
    lazily = {**values, "u": torch._neg_view(-values["u"]), "D": torch._neg_view(-values["D"])}
    assert torch.equal(cross_selective_scan(**lazily, backend="cpu"), expected)
