"""The selective scan beside its peers, in one run: time, ratio, state-steps per second, peak memory.

    python benchmarks/scan.py                      # on the CPU
    python benchmarks/scan.py --device cuda        # on a GPU, with mamba-ssm's kernel if it is installed
    python benchmarks/scan.py --json benchmarks/results/scan.json

Every contender must first agree with the float64 reference, outputs and gradients; those that disagree are not timed.
Peers: the loop of mamba_ssm's `selective_scan_ref` in torch, as it stands and with a better memory layout, mambapy's
parallel scan (pip install mambapy), and on a GPU mamba_ssm's CUDA kernel.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from measure import machine, peak_bytes, seconds
from torch import Tensor

from ssmctx.files import write_whole
from ssmctx.scan import DIRECTIONS
from ssmctx.scan.backend import load
from ssmctx.scan.operator import scan

BOUND = 1e-4
Scan = Callable[..., Tensor]
NAMES = ("u", "dt", "A", "B", "C", "D")


def sequence_inputs(rows: int, length: int, states: int, device: str) -> dict[str, Tensor]:
    """u, dt (1, L, rows); A (rows, N); B, C (1, L, N); D (rows)."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    values = {
        "u": normal(1, length, rows),
        "dt": torch.nn.functional.softplus(normal(1, length, rows) - 3),
        "A": -torch.arange(1.0, states + 1).repeat(rows, 1),
        "B": normal(1, length, states),
        "C": normal(1, length, states),
        "D": normal(rows),
    }
    return {name: value.to(device).requires_grad_() for name, value in values.items()}


def loop(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """One position after the other, everything else at once, with memory laid out for that."""
    decay = torch.exp(dt[..., None] * A).unbind(1)  # unbound, not indexed: indexing makes backward quadratic in L
    drive = ((dt * u)[..., None] * B[:, :, None]).unbind(1)
    h = u.new_zeros(len(u), *A.shape)
    out = []
    for a, x, c in zip(decay, drive, C.unbind(1), strict=True):
        h = a * h + x
        out.append((h * c[:, None]).sum(-1))
    return torch.stack(out, 1) + D * u


def reference_loop(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The same in the memory layout of `selective_scan_ref`, (batch, channels, L, N)."""
    decay = torch.exp(torch.einsum("bld,dn->bdln", dt, A)).unbind(2)
    drive = torch.einsum("bld,bln,bld->bdln", dt, B, u).unbind(2)
    h = u.new_zeros(len(u), *A.shape)
    out = []
    for a, x, c in zip(decay, drive, C.unbind(1), strict=True):
        h = a * h + x
        out.append(torch.einsum("bdn,bn->bd", h, c))
    return torch.stack(out, 1) + D * u


def with_mambapy(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """mambapy's parallel scan."""
    from mambapy.pscan import pscan

    h = pscan(torch.exp(dt[..., None] * A), (dt * u)[..., None] * B[:, :, None])
    return (h @ C[..., None]).squeeze(-1) + D * u


def with_mamba_ssm(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """mamba_ssm's CUDA kernel."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(u.mT, dt.mT, A, B.mT.contiguous(), C.mT.contiguous(), D).mT


def with_ssmctx(backend: str) -> Scan:
    """One of our backends, on a sequence."""

    def run(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        maps = (x[:, None, :, None] for x in (dt, B, C))
        dt, B, C = maps
        bias = torch.zeros_like(D)[None]
        v, _ = scan(u[:, None], dt, A[None], B, C, D[None], bias, None, ("row",), False, backend)
        return v[:, 0]

    return run


def contenders(device: str) -> tuple[dict[str, Scan], dict[str, str]]:
    """What can be timed here, ours first, and why the rest cannot."""
    order = ["triton", "cpu", "torch"]
    reasons = {f"ssmctx {n}": load(n).refuses(torch.device(device), torch.float32, 16) for n in order}
    scans: dict[str, Scan] = {f"ssmctx {n}": with_ssmctx(n) for n in order if not reasons[f"ssmctx {n}"]}
    missing = {name: reason for name, reason in reasons.items() if reason}
    scans["selective_scan_ref"] = reference_loop
    scans["time-major loop"] = loop
    if importlib.util.find_spec("mambapy"):
        scans["mambapy"] = with_mambapy
    else:
        missing["mambapy"] = "not installed: pip install mambapy"
    if reason := load("mamba_ssm").refuses(torch.device(device), torch.float32, 16):
        missing["mamba_ssm"] = reason
    else:
        scans["mamba_ssm"] = with_mamba_ssm
    return scans, missing


def worst_error(run: Scan, values: dict[str, Tensor], truth: list[Tensor]) -> float:
    """Largest relative error of the output and all gradients."""
    errors = [(a.double() - e).abs().max() / e.abs().max() for a, e in zip(results(run, values), truth, strict=True)]
    return float(torch.stack(errors).max())


def results(run: Scan, values: dict[str, Tensor]) -> list[Tensor]:
    """Output and gradients of all inputs."""
    v = run(**values)
    return [v.detach(), *torch.autograd.grad(v.square().sum(), list(values.values()))]


def compare(values: dict[str, Tensor], device: str, rounds: int) -> list[dict[str, object]]:
    """Check, then time, every contender on one input; rows of figures."""
    scans, missing = contenders(device)
    wide = {name: value.detach().double().requires_grad_() for name, value in values.items()}
    truth = results(with_ssmctx("reference"), wide)
    steps = values["u"].numel() * values["A"].shape[-1]
    for name, run in list(scans.items()):
        error = worst_error(run, values, truth)
        if not error < BOUND:
            missing[name] = f"not timed: relative error {error:.1e}, {BOUND:.0e} is allowed"
            del scans[name]

    def forward(run: Scan) -> Callable[[], object]:
        def call() -> object:
            with torch.no_grad():
                return run(**values)

        return call

    forwards = {name: forward(run) for name, run in scans.items()}
    both = {name: lambda run=run: results(run, values) for name, run in scans.items()}
    times, times_both = seconds(forwards, rounds, device), seconds(both, rounds, device)
    first = next(iter(scans))
    inputs = sum(value.nbytes for value in values.values())
    rows = [
        {
            "name": name,
            "forward_s": times[name],
            "forward_ratio": times[name] / times[first],
            "steps_per_s": steps / times[name],
            "forward_backward_s": times_both[name],
            "forward_backward_ratio": times_both[name] / times_both[first],
            "peak_over_inputs": over(peak_bytes(forwards[name], device), inputs),
        }
        for name in scans
    ]
    return rows + [{"name": name, "not_timed": reason} for name, reason in missing.items()]


def over(peak: int | None, inputs: int) -> float:
    """Peak memory in units of the inputs; NaN where it is unknown."""
    return math.nan if peak is None else peak / inputs


def image_inputs(d: int, height: int, width: int, states: int, device: str) -> list[Tensor]:
    """u, dt_raw, A, B, C, D and dt_bias of an image in four directions, all of which take gradients."""
    generator = torch.Generator().manual_seed(0)
    grid, count = (1, height, width), len(DIRECTIONS)
    shapes = [(*grid, d), (*grid, count, d), (count, d, states), (*grid, count, states), (*grid, count, states)]
    u, raw, A, B, C = (torch.randn(s, generator=generator).to(device) for s in shapes)
    flat = torch.zeros(count, d, device=device)
    return [x.requires_grad_() for x in (u, raw - 3, -A.abs() - 0.1, B, C, flat + 1, flat.clone())]


def image(d: int, height: int, width: int, states: int, device: str, rounds: int) -> list[dict[str, object]]:
    """Our backends on an image in four directions, softplus included."""
    leaves = image_inputs(d, height, width, states, device)
    u = leaves[0]
    names = [n for n in ("triton", "cpu", "torch") if not load(n).refuses(u.device, u.dtype, states)]

    def forward(name: str) -> Tensor:
        return scan(*leaves, None, DIRECTIONS, True, name)[0]

    def without_gradients(name: str) -> Tensor:
        with torch.no_grad():
            return forward(name)

    def with_gradients(name: str) -> object:
        return torch.autograd.grad(forward(name).sum(), leaves)

    times = seconds({n: lambda n=n: without_gradients(n) for n in names}, rounds, device)
    times_both = seconds({n: lambda n=n: with_gradients(n) for n in names}, rounds, device)
    steps = len(DIRECTIONS) * u.numel() * states
    return [
        {
            "name": f"ssmctx {n}",
            "forward_s": times[n],
            "steps_per_s": steps / times[n],
            "forward_backward_s": times_both[n],
        }
        for n in names
    ]


def show(title: str, rows: list[dict[str, object]]) -> None:
    """Print rows as a table."""
    print(f"\n{title}")
    print(f"{'':20}{'forward ms':>12}{'ratio':>8}{'G steps/s':>11}{'fwd+bwd ms':>12}{'ratio':>8}{'peak/inputs':>13}")
    for row in rows:
        if "not_timed" in row:
            print(f"{row['name']:20}{row['not_timed']}")
            continue
        ratio, ratio_both = (row.get(k, math.nan) for k in ("forward_ratio", "forward_backward_ratio"))
        print(
            f"{row['name']:20}{1e3 * row['forward_s']:>12.2f}{ratio:>8.1f}{row['steps_per_s'] / 1e9:>11.2f}"
            f"{1e3 * row['forward_backward_s']:>12.2f}{ratio_both:>8.1f}{row.get('peak_over_inputs', math.nan):>13.2f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds; medians are shown")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    report: dict[str, object] = {"machine": machine(), "device": options.device}
    print(json.dumps(report["machine"]))
    values = sequence_inputs(1024, 1536, 16, options.device)
    report["sequence"] = compare(values, options.device, options.rounds)
    show("a sequence: 1024 channels, 1536 positions, 16 states, float32", report["sequence"])
    d, height, width = (512, 384, 256) if options.device == "cuda" else (256, 48, 32)
    report["picture"] = image(d, height, width, 16, options.device, options.rounds)
    show(f"an image: {d} channels, {height} x {width}, four directions, softplus, 16 states", report["picture"])
    if options.json:
        write_whole(options.json, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
