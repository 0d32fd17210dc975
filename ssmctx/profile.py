"""What a codec costs, part by part: parameters, multiply-adds, memory, steps."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ssmctx import registry
from ssmctx.entropy.switches import evaluation_mode
from ssmctx.errors import ArgumentError
from ssmctx.memory import peak_memory
from ssmctx.stages import StagePeaks, observe

__all__ = ["PartCost", "profile", "scan_multiply_adds"]

_PARTS = ("g_a", "h_a", "h_s", "entropy_bottleneck", "scale_network", "context", "g_s")
_PER_STATE, _PER_CHANNEL = 4, 2

_DESCRIPTION = """\
Print what an entropy model costs, part by part: parameters, multiply-adds, memory, coding steps.

examples:
  all registered context models, in one table
    %(prog)s --variants
  one of them, part by part
    %(prog)s --context uneven"""


@dataclass(frozen=True)
class PartCost:
    """What one part of a codec costs, in one evaluation pass over one image.

    Attributes:
        name: of the part; "all" is the whole model.
        parameters: how many numbers it learns.
        multiply_adds: of convolutions, matrix products and scans; element-wise work is not counted, nor scans of
            backends without gradients of their own ("reference", "mamba_ssm").
        peak_bytes: memory of one call on top of what was in use before it; None where the system does not report it.
        steps: coding steps, for the context model and the whole.
    """

    name: str
    parameters: int
    multiply_adds: int
    peak_bytes: int | None
    steps: int | None


def scan_multiply_adds(pixels: int, directions: int, channels: int, states: int) -> int:
    r"""Multiply-adds of a scan: for each pixel, direction and channel 4 per state, plus 2.

    $$ \Delta A, \quad (e^{\Delta A})\,h + (\Delta u) B, \quad C \cdot h \qquad\text{and}\qquad \Delta u, \quad D u $$

    Args:
        pixels: of the image, times the batch.
        directions: K.
        channels: d.
        states: N per channel.

    Returns:
        The number of multiply-adds.

    Examples:
        >>> from ssmctx.profile import scan_multiply_adds
        >>> scan_multiply_adds(pixels=6, directions=4, channels=8, states=16)
        12672
    """
    return pixels * directions * channels * (_PER_STATE * states + _PER_CHANNEL)


def profile(model: nn.Module, size: tuple[int, int], channels: int | None = None) -> list[PartCost]:
    """Cost of a codec and of each of its parts, for one evaluation pass over one image.

    Parts are the stages that coding names (`ssmctx.stages`) and the modules of the same names: g_a, h_a, h_s,
    entropy_bottleneck, scale_network, context and g_s. A codec that is no `ImageCodec` names no g_a and g_s.

    Scans are counted where the scan operator runs. Backends without gradients of their own ("reference", "mamba_ssm")
    bypass it, so that their scans count as zero.

    Args:
        model: a codec, or an entropy model.
        size: height and width of the image in pixels, or of the latent in cells for an entropy model.
        channels: of the input; default 3, and M for a module that has one.

    Returns:
        A row for each part that has a module and a stage, then one named "all" for the whole model.

    Raises:
        ArgumentError: a side below 1, or a model without parameters.

    Examples:
        >>> import ssmctx
        >>> model = ssmctx.MambaICEntropyModel(M=20, hyper_channels=12, N=8)
        >>> [(part.name, part.steps) for part in ssmctx.profile(model, (4, 6)) if part.steps]
        [('context', 10), ('all', 10)]
    """
    if min(size) < 1:
        raise ArgumentError(f"profile: size must be (height, width) of at least 1, got {tuple(size)}")
    channels = getattr(model, "M", 3) if channels is None else channels
    weight = next(model.parameters(), None)
    if weight is None:
        raise ArgumentError(
            "profile: the model must have parameters, whose device and dtype the input takes; "
            f"{type(model).__name__} has none"
        )
    x = torch.rand(1, channels, *size, device=weight.device, dtype=weight.dtype)
    parts = {name.rpartition(".")[2]: module for name, module in model.named_modules() if _is_part(name)}
    counter = _Counter()
    operations, peaks = _Operations(counter), StagePeaks(weight.device)
    with torch.no_grad(), evaluation_mode(model):
        with counter, observe(operations):
            model(x)
        with observe(peaks):
            model(x)
        with peak_memory(weight.device) as whole:  # a measurement within another would cut it short
            model(x)
    steps = {key: module.order.num_steps for key, module in parts.items() if hasattr(module, "order")}
    costs = [
        PartCost(key, _parameters(parts[key]), operations.of[key] // 2, peaks.peaks.get(key), steps.get(key))
        for key in _PARTS
        if key in parts and key in operations.of
    ]
    return [*costs, PartCost("all", _parameters(model), counter.operations // 2, whole[0], steps.get("context"))]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operations of convolutions, matrix products and scans so far, two a multiply-add."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.ssmctx.scan.default:
            u, _, A, *_ = args
            self.operations += 2 * scan_multiply_adds(u.shape[:-1].numel(), *A.shape)
            if (dt_weight := args[-1]) is not None:  # low-rank step sizes, multiplied out in the scan
                self.operations += 2 * u.shape[:-1].numel() * dt_weight.numel()
        elif func._overloadpacket in flop_registry:
            self.operations += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


class _Operations:
    """Observes what the counter counts in each part."""

    def __init__(self, counter: _Counter) -> None:
        self._counter = counter
        self.of: dict[str, int] = {}
        self._before: list[int] = []

    def begin(self, stage: str, index: int | None) -> None:
        self._before.append(self._counter.operations)

    def end(self, stage: str, index: int | None) -> None:
        self.of[stage] = self.of.get(stage, 0) + self._counter.operations - self._before.pop()


def _is_part(name: str) -> bool:
    *above, last = name.split(".")
    return last in _PARTS and not any(part in _PARTS for part in above)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _print(rows: list[PartCost], first: str) -> None:
    print(f"{first:20}{'parameters':>12}{'M multiply-adds':>17}{'peak MB':>10}{'steps':>7}")
    for row in rows:
        peak = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}"
        print(
            f"{row.name:20}{row.parameters:>12,}{row.multiply_adds / 1e6:>17,.1f}{peak:>10}"
            f"{'' if row.steps is None else row.steps:>7}"
        )


def main(arguments: Sequence[str] | None = None, prog: str = "python -m ssmctx.profile") -> None:
    """Run the command line."""
    from ssmctx.entropy.model import MambaICEntropyModel

    parser = argparse.ArgumentParser(prog, None, _DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--variants", action="store_true", help="a row for each registered context model")
    what.add_argument("--context", default="channel-spatial", help="the context model, by name (%(default)s)")
    parser.add_argument("--M", type=int, default=320, help="channels of y (%(default)s)")
    parser.add_argument("--N", type=int, default=128, help="half the width of h_a and h_s (%(default)s)")
    parser.add_argument("--hyper-channels", type=int, default=192, help="channels of z (%(default)s)")
    parser.add_argument("--latent", default="32x48", help="height x width of y; 32x48 is a 512 x 768 image")
    options = parser.parse_args(arguments)
    try:
        height, width = (int(side) for side in options.latent.split("x"))
    except ValueError:
        parser.error(f"--latent must be HEIGHTxWIDTH, got {options.latent!r}")

    def cost(name: str) -> list[PartCost]:
        context = registry.contexts.create(name, options.M)
        model = MambaICEntropyModel(options.M, hyper_channels=options.hyper_channels, N=options.N, context=context)
        return profile(model, (height, width))

    if not options.variants:
        _print(cost(options.context), "part")
        return
    rows = []
    for name in registry.contexts.names():
        *_, whole = cost(name)
        rows.append(PartCost(name, whole.parameters, whole.multiply_adds, whole.peak_bytes, whole.steps))
    _print(rows, "context")


class _Callable(ModuleType):
    """`ssmctx.profile` is both this module, which `python -m` runs, and the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[PartCost]:
        return profile(*args, **kwargs)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = _Callable
