"""The Triton kernels: equal to a float64 loop, deterministic, blind to uninitialised memory.

Kernels run on a CUDA device when there is one. Triton's interpreter runs them on the CPU, but only in a process that
had TRITON_INTERPRET=1 before triton was imported: `test_kernels_under_the_interpreter` runs this file in such a one.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ssmctx.scan.directions import DIRECTIONS, scan_order
from ssmctx.scan.inputs import ScanInputs

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from ssmctx.scan.triton import launch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
BOUND = 2e-5
NAMES = ("v", "h_last", "du", "ddt_raw", "dA", "dB", "dC", "dD", "ddt_bias", "dh0")
ROW, COLUMN, ROW_REVERSED, COLUMN_REVERSED = DIRECTIONS

needs_device = pytest.mark.skipif(
    not INTERPRETED and launch.unavailable() is not None,
    reason="no CUDA device; test_kernels_under_the_interpreter runs it on the CPU",
)

# batch, height, width, d, N, directions, softplus, shift of dt
CASES = {
    "one pixel": (1, 1, 1, 1, 1, [ROW], True, 0.0),
    "one row": (1, 1, 5, 3, 3, [COLUMN], False, 0.0),
    "one column, a direction twice": (1, 6, 1, 2, 3, [ROW_REVERSED, ROW_REVERSED], True, 0.0),
    "four directions": (1, 3, 3, 2, 3, list(DIRECTIONS), True, 0.0),
    "ragged channels, two images": (2, 2, 3, 11, 16, [COLUMN_REVERSED], True, 0.0),
    "three directions, one twice": (1, 2, 3, 3, 5, [COLUMN, ROW, COLUMN], False, 0.0),
    "more lanes than channels": (1, 3, 2, 1, 16, [COLUMN], True, 0.0),
    "tiny steps": (1, 3, 3, 3, 3, [ROW], True, -12.0),
    "large steps": (1, 3, 3, 3, 3, [COLUMN_REVERSED], True, 6.0),
    "steps of rounding size": (1, 2, 3, 3, 3, [ROW], True, -60.0),
    "steps that forget everything": (1, 2, 3, 3, 3, [ROW], True, 3000.0),
}
if not INTERPRETED:  # too long for the interpreter
    CASES["many chunks"] = (2, 37, 29, 70, 16, list(DIRECTIONS), True, -2.0)
    CASES["the most states"] = (1, 19, 23, 40, 64, list(DIRECTIONS), True, 0.0)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Let small images cross chunks, and few channels tiles; and give uninitialised memory as NaN."""
    monkeypatch.setattr(launch, "_FORWARD_CHUNKS", (4, 4))
    monkeypatch.setattr(launch, "_BACKWARD_CHUNKS", (4, 4))
    monkeypatch.setattr(launch, "_SCRATCH", 1)
    if INTERPRETED:
        monkeypatch.setattr(launch, "_FORWARD_TILE", 128)
        monkeypatch.setattr(launch, "_BACKWARD_TILE", 128)
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


def poisoned(make):
    def make_nan(*args, **kwargs):
        made = make(*args, **kwargs)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    return make_nan


def inputs(batch, height, width, d, states, directions, softplus, shift, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    grid, K = (batch, height, width), len(directions)
    dt_raw = normal(*grid, K, d) + shift
    return {
        "u": normal(*grid, d),
        "dt_raw": dt_raw if softplus else 0.1 * dt_raw.abs(),
        "A": -normal(K, d, states).exp(),
        "B": normal(*grid, K, states),
        "C": normal(*grid, K, states),
        "D": normal(K, d),
        "dt_bias": normal(K, d) if softplus else 0.1 * normal(K, d).abs(),
        "h0": normal(batch, K, d, states),
    }


def reference(values, dv, dh_last, directions, softplus):
    """Results and gradients of the equation, one pixel after the other, in float64."""
    values = {name: value.double().requires_grad_() for name, value in values.items()}
    u, dt_raw, A, B, C, D, dt_bias, h0 = values.values()
    order = scan_order(u.shape[1], u.shape[2], directions)
    v, h_last = [0.0] * len(order), []
    for k in range(len(directions)):
        dt = (dt_raw[..., k, :] + dt_bias[k]).flatten(1, 2)
        dt = F.softplus(dt) if softplus else dt
        u_k, B_k, C_k = u.flatten(1, 2), B[..., k, :].flatten(1, 2), C[..., k, :].flatten(1, 2)
        h = h0[:, k]
        for p in order[:, k].tolist():
            h = torch.exp(dt[:, p, :, None] * A[k]) * h + (dt[:, p] * u_k[:, p])[..., None] * B_k[:, p, None]
            v[p] = v[p] + (h * C_k[:, p, None]).sum(-1) + D[k] * u_k[:, p]
        h_last.append(h)
    v, h_last = torch.stack(v, 1).view(u.shape), torch.stack(h_last, 1)
    gradients = torch.autograd.grad([v, h_last], list(values.values()), [dv.double(), dh_last.double()])
    return dict(zip(NAMES, (v.detach(), h_last.detach(), *gradients), strict=True))


def computed(values, dv, dh_last, directions, softplus):
    values = [value.to(DEVICE) for value in values.values()]
    inputs = ScanInputs(*values, tuple(directions), softplus)
    results = launch.forward(inputs)
    gradients = launch.backward(dv.to(DEVICE), dh_last.to(DEVICE), inputs)
    return dict(zip(NAMES, (*(x.cpu() for x in results), *(x.cpu() for x in gradients)), strict=True))


def arguments(case):
    *shape, directions, softplus, shift = case
    values = inputs(*shape, directions, softplus, shift)
    generator = torch.Generator().manual_seed(1)
    dv = torch.randn(values["u"].shape, generator=generator)
    return values, dv, torch.randn(values["h0"].shape, generator=generator), directions, softplus


def assert_close(actual, expected):
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        error = (actual[name].double() - value).abs().max() / value.abs().max().clamp(min=1e-30)
        assert error <= BOUND, f"{name}: relative error {error:.2e} beyond {BOUND:.0e}"


@needs_device
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernels_equal_the_reference(case):
    assert_close(computed(*arguments(case)), reference(*arguments(case)))


@needs_device
def test_more_directions_than_a_launch_takes(monkeypatch):
    monkeypatch.setattr(launch, "_DIRECTIONS_A_LAUNCH", 2)
    case = (1, 2, 2, 2, 1, [COLUMN_REVERSED, ROW, COLUMN], True, 0.0)
    assert_close(computed(*arguments(case)), reference(*arguments(case)))


@needs_device
def test_the_same_bits_every_time():
    case = CASES["ragged channels, two images"]
    first, second = computed(*arguments(case)), computed(*arguments(case))
    for name in NAMES:
        assert torch.equal(first[name], second[name]), name


@needs_device
def test_an_image_alone_has_the_bits_it_has_in_a_batch():
    values, dv, dh_last, directions, softplus = arguments((2, 2, 3, 2, 3, [COLUMN], True, 0.0))
    both = computed(values, dv, dh_last, directions, softplus)
    shared = ("A", "D", "dt_bias")
    second = {name: value if name in shared else value[1:] for name, value in values.items()}
    alone = computed(second, dv[1:], dh_last[1:], directions, softplus)
    for name in ("v", "h_last", "du", "ddt_raw", "dB", "dC", "dh0"):
        assert torch.equal(alone[name], both[name][1:]), name


@needs_device
@pytest.mark.parametrize("reverse", [False, True], ids=["states", "gradients"])
def test_a_lost_carry_is_noticed(monkeypatch, reverse):
    """Planted fault: chunks that forget the state before them, or the gradient after them."""
    carry = launch._carry

    def forgetful(*args, **kwargs):
        carry(*args, **kwargs)
        if kwargs.get("reverse", False) == reverse:
            args[1].zero_()

    monkeypatch.setattr(launch, "_carry", forgetful)
    case = CASES["tiny steps"]
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(computed(*arguments(case)), reference(*arguments(case)))


@pytest.mark.parametrize(
    ("length", "tiles", "forward", "backward"),
    [
        (1, 1, 32, 32),
        (1536, 16, 32, 32),
        (3072, 16, 32, 64),
        (6144, 16, 48, 128),
        (24576, 16, 192, 128),
        (98304, 8, 384, 128),
        (1 << 24, 8, 512, 128),
    ],
)
def test_chunk_length_depends_on_the_shape_only(monkeypatch, length, tiles, forward, backward):
    monkeypatch.undo()
    assert launch._forward_chunk(length, tiles) == forward
    assert launch._backward_chunk(length, tiles) == backward


def test_a_kernel_is_looked_up_once_for_arguments_of_the_same_kind(monkeypatch):
    """Anew for other constants, registers and devices, and for integers that need 64 bits."""
    looked_up, launched = [], []

    class Kernel:
        arg_names = ("x", "length", "SHAPE", "ADD")

        def __getitem__(self, grid):
            def slow(*args, **kwargs):
                looked_up.append(
                    (grid, args[1], kwargs["SHAPE"], kwargs["ADD"], kwargs["maxnreg"], kwargs["num_warps"])
                )
                return Compiled()

            return slow

    class Compiled:
        def __getitem__(self, grid):
            return lambda *args: launched.append((grid, *args[1:]))

    monkeypatch.setattr(launch, "_compiled", {})
    kernel, x = Kernel(), torch.zeros(4)
    for grid, length, add, registers in [(5, 7, True, 128), (6, 8, True, 128), (5, 7, False, 128), (5, 7, True, 255)]:
        launch._launch(kernel, grid, (x, length), ((3, 2), add), registers)
    launch._launch(kernel, 5, (x, 1 << 31), ((3, 2), True), 128)
    launch._launch(kernel, 5, (x.to("meta"), 7), ((3, 2), True), 128, warps=4)
    first = ((5,), 7, (3, 2), True, 128, 1)
    wide = ((5,), 1 << 31, (3, 2), True, 128, 1)
    assert looked_up == [first, (*first[:3], False, 128, 1), (*first[:4], 255, 1), wide, (*first[:5], 4)]
    assert launched == [((6, 1, 1), 8, (3, 2), True)]


@pytest.mark.skipif(INTERPRETED, reason="runs outside the interpreter")
@pytest.mark.parametrize("kernel", ["chunks", "carry", "forward", "sum", "adjoint", "backward"])
def test_kernels_compile_for_hopper(kernel):
    """For sm_90, down to the binary; this needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ssmctx.scan.triton import backward_kernels, kernels

    shape, steps = {"SHAPE": (192, 16, 4)}, {"GROUP": 4, "STAGES": 3}
    forward = {**shape, **steps, "TILE": launch._forward_tile(16, 192), "RAGGED": True, "FAR": False, "SOFTPLUS": True}
    backward = {**shape, "TILE": launch._backward_tile(16, 192), "SOFTPLUS": True}
    function, registers, constexprs = {
        "chunks": (kernels.chunks_kernel, 128, forward),
        "carry": (kernels.carry_kernel, 128, {**shape, "BLOCK": 32, "GROUP": 8, "STAGES": 3, "REVERSE": True}),
        "forward": (kernels.forward_kernel, 128, {**forward, "ADD": True}),
        "sum": (kernels.sum_kernel, 128, {"K": 4, "BLOCK": 1024}),
        "adjoint": (backward_kernels.adjoint_kernel, 168, backward),
        "backward": (backward_kernels.backward_kernel, 255, {**backward, "LOGS": (2, 3), "ADD": True}),
    }[kernel]
    integers = {"H", "W", "chunk", "chunks", "k", "codes", "item", "count", "pixels", "size", "work"}
    signature = {name: "i32" if name in integers else "*fp32" for name in function.arg_names}
    signature |= dict.fromkeys(constexprs, "constexpr")
    compiled = triton.compile(
        ASTSource(function, signature, constexprs),
        target=GPUTarget("cuda", 90, 32),
        options=launch._options(registers, 1),
    )
    assert compiled.asm["cubin"]


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_kernels_under_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
