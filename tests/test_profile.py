"""The cost table, against counts by hand."""

import contextlib
import subprocess
import sys

import pytest
import torch
from mambaic.codec import MambaIC
from torch import nn

import ssmctx
from ssmctx import stages
from ssmctx.errors import ArgumentError
from ssmctx.memory import peak_memory
from ssmctx.profile import PartCost, main, scan_multiply_adds


class Nothing(nn.Module):
    """A latent codec that keeps y as it is."""

    def forward(self, y):
        return {"y_hat": y, "likelihoods": {}}


def codec():
    """One part of each kind, small enough to count."""
    g_a = nn.Conv2d(3, 32, 3, stride=2, padding=1)
    return ssmctx.ImageCodec(g_a, Enlarged(32, d_state=2), Nothing(), stride=2)


class Enlarged(ssmctx.VSSBlock):
    def forward(self, y):
        return super().forward(y).repeat(1, 1, 2, 2)


def test_a_count_by_hand():
    g_a, g_s, whole = ssmctx.profile(codec(), (8, 12))
    pixels = 4 * 6
    assert (g_a.name, g_a.parameters, g_a.multiply_adds) == ("g_a", 32 * 27 + 32, pixels * 32 * 27)
    width, rank, states = 64, 2, 2
    linear = 32 * 2 * width + width * 4 * (rank + 2 * states) + 4 * rank * width + width * 32
    depthwise = 9 * width
    scan = 4 * width * (4 * states + 2)
    assert scan_multiply_adds(pixels, 4, width, states) == pixels * scan
    assert (g_s.name, g_s.multiply_adds) == ("g_s", pixels * (linear + depthwise + scan))
    assert whole.multiply_adds == g_a.multiply_adds + g_s.multiply_adds
    assert whole.parameters == g_a.parameters + g_s.parameters
    assert whole.steps is None


def test_parts_of_the_whole_codec():
    model = MambaIC("tiny").train()
    costs = {cost.name: cost for cost in ssmctx.profile(model, (64, 96))}
    assert list(costs) == ["g_a", "h_a", "h_s", "entropy_bottleneck", "context", "g_s", "all"]
    assert model.training
    assert costs["context"].steps == 10
    parts = [cost for name, cost in costs.items() if name != "all"]
    assert costs["all"].parameters == sum(cost.parameters for cost in parts)
    assert costs["all"].multiply_adds == sum(cost.multiply_adds for cost in parts)
    assert not any(module._forward_hooks for module in model.modules())


def test_cost_grows_with_the_image():
    small, large = (ssmctx.profile(MambaIC("tiny"), (256, 128 * n))[-1] for n in (1, 2))
    assert small.parameters == large.parameters
    assert large.multiply_adds == 2 * small.multiply_adds


def test_peak_memory_sees_what_was_freed():
    with peak_memory("cpu") as peak:
        torch.ones(1 << 24).sum()
    if peak[0] is None:
        pytest.skip("this system does not say how much memory a process had")
    assert 60e6 < peak[0] < 90e6


def test_a_measured_peak_of_nothing_is_no_unknown_one(monkeypatch):
    measured = iter([[None], [0], [0], [7], [3]])

    @contextlib.contextmanager
    def peak_memory(device):
        yield next(measured)

    monkeypatch.setattr(stages, "peak_memory", peak_memory)
    observer, seen = stages.StagePeaks("cpu"), []
    for _ in range(5):
        with stages.observe(observer), stages.stage("g_a"):
            pass
        seen.append(observer.peaks["g_a"])
    assert seen == [None, 0, 0, 7, 7]


def test_command(capsys):
    options = ["--M", "20", "--N", "4", "--hyper-channels", "6", "--latent", "4x6"]
    command = [sys.executable, "-m", "ssmctx.profile", *options, "--variants"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in table.splitlines()[1:]] == list(ssmctx.registry.contexts.names())
    main([*options, "--context", "uneven"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("all")
    with pytest.raises(SystemExit, match="2"):
        main([*options, "--latent", "4"])
    assert "--latent must be HEIGHTxWIDTH, got '4'" in capsys.readouterr().err


def test_errors_and_both_ways_to_call():
    with pytest.raises(ArgumentError, match=r"size must be \(height, width\) of at least 1, got \(0, 5\)"):
        ssmctx.profile(codec(), (0, 5))
    with pytest.raises(ArgumentError, match=r"profile: the model must have parameters, .*; Nothing has none"):
        ssmctx.profile(Nothing(), (4, 4))
    import ssmctx.profile as module

    assert isinstance(module(codec(), (4, 4))[0], PartCost)
