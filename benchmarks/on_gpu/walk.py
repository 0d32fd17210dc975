"""Everything that the library registers, once on the device: trained, coded and decoded. What breaks says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from codec import image, make
from mambaic.bundled import load_bundled

from on_gpu.device import in_processes, workers
from on_gpu.parts import Clock, Save
from on_gpu.plan import Plan
from ssmctx import ImageCodec, MambaICEntropyModel, registry
from ssmctx.testing import Latent, assert_causal, assert_round_trip, update_tables
from ssmctx.testing.registered import M, make_small

_SCALES = ("integer", "float")
_TOLERANCE = 1e-3  # of values that stand beside the same symbols: on a GPU a batch is summed in another order


def walk(plan: Plan, save: Save, clock: Clock) -> None:
    """Each component once. A process ends with the first one that breaks in it; tracebacks are printed."""
    jobs = _jobs(plan)
    codes = in_processes(list(jobs.values()), workers(), clock)
    broken = {name: code for name, code in zip(jobs, (codes[i] for i in range(len(jobs))), strict=True) if code != 0}
    save("walked", len(jobs))
    save("broken", {name: "no time was left" if code is None else f"exit code {code}" for name, code in broken.items()})
    if broken:
        raise RuntimeError(f"broken on the device: {', '.join(broken)}")


def _jobs(plan: Plan) -> dict[str, Callable[[], None]]:
    found: dict[str, Callable[[], None]] = {}
    for name in registry.contexts.names():
        found[f"context {name}"] = partial(_context, plan.device, name)
    for name in registry.distributions.names():
        found[f"distribution {name}"] = partial(_entropy_model, plan.device, distribution=name)
    for scales in _SCALES:
        found[f"{scales} scales"] = partial(_entropy_model, plan.device, scales=scales)
    for name in ("tiny", "base"):
        found[f"codec {name}"] = partial(_codec, plan.device, name)
    found["released layout"] = partial(_released, plan.device)
    return dict(list(found.items())[: plan.components])


def host_kernels() -> None:
    """A step of training and a file on the CPU: what numba compiles for them is then on disk."""
    _entropy_model("cpu")


def _latents(device: str) -> torch.Tensor:
    return Latent(M, 6, 9, batch=2).tensor().to(device)


def _context(device: str, name: str) -> None:
    context = make_small(registry.contexts, name).to(device)
    channels = context.order.num_channels
    y_hat, side = (Latent(c, 5, 7, seed=c).tensor().to(device) for c in (channels, 2 * channels))
    assert_causal(context, y_hat, side)
    _coded(MambaICEntropyModel(channels, context=context, hyper_channels=6, N=4).to(device), device)


def _entropy_model(device: str, **options: str) -> None:
    context = make_small(registry.contexts, "carried-state")
    model = MambaICEntropyModel(context.order.num_channels, context=context, hyper_channels=6, N=4, **options)
    _coded(model.to(device), device)


def _coded(model: MambaICEntropyModel, device: str) -> None:
    """A step of training, then streams of a batch and alone, which the CPU decodes too."""
    y = _latents(device)[:, : model.M]
    out = model.train()(y)
    rate = sum(-p.log2().sum() for p in out["likelihoods"].values())
    (rate + out["y_hat"].square().sum() + model.aux_loss()).backward()
    if lost := [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]:
        raise RuntimeError(f"gradients that are not finite: {lost}")
    model.eval()
    update_tables(model)
    assert_round_trip(model, y, tolerance=_TOLERANCE)
    coded = model.compress(y)
    if model.compress(y)["strings"] != coded["strings"]:
        raise RuntimeError("the same latent gives other streams the second time")
    there = copy.deepcopy(model).cpu().decompress(coded["strings"], coded["shape"])["y_hat"]
    apart = float((there - coded["y_hat"].cpu()).abs().max())
    if not apart < _TOLERANCE:
        raise RuntimeError(f"decoded on the CPU, y_hat is off by {apart:.1e}")


def _codec(device: str, name: str) -> None:
    """A bundled codec: refined files, and a decoder on the CPU."""
    codec = load_bundled(name).to(device)
    pixels = image(96, 64, None)
    for refined in ({}, {"effort": 2, "lmbda": 0.01}):
        data = codec.encode(pixels, **refined)
        here, there = codec.decode(data), load_bundled(name).decode(data)
        apart = int((here.cpu().int() - there.int()).abs().max())
        if apart > 1:
            raise RuntimeError(f"decoded on the CPU pixels are off by {apart} of 255")


def _released(device: str) -> None:
    codec: ImageCodec = make("released", "tiny").to(device)
    codec.train()(torch.rand(1, 3, 64, 64, device=device))["x_hat"].mean().backward()
    codec.eval()
    codec.update()
    assert_round_trip(codec, torch.rand(1, 3, 70, 40, device=device), tolerance=_TOLERANCE)
