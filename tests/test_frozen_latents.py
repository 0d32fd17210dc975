"""benchmarks/contexts.py: the same numbers for all contexts, bytes that decode, runs that resume."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import contexts as bench
import numpy as np
import pytest
import torch
from frozen import plot as frozen_plot
from frozen import train as training
from frozen.latents import cached_latents
from frozen.report import grouped, text_table
from frozen.shifted import FRACTIONS, shifted_tables, symbols_and_rows
from frozen.train import Plan, make_context, make_model, read_run, train
from PIL import Image
from torch import nn

from ssmctx import registry
from ssmctx.context.hyper_only import HyperOnlyContext
from ssmctx.distributions import Laplace
from ssmctx.entropy.rans import RansCoder
from ssmctx.errors import ArgumentError, CheckpointError, UnknownNameError

PLAN = Plan("none", "laplace", seed=0, steps=4, minutes=0.0, batch=2, crop=3, rate=1e-3)


def small_codec() -> nn.Module:
    """A codec with 6 channels, the same whenever it is made."""
    torch.manual_seed(0)
    codec = nn.Module()
    codec.g_a = nn.Conv2d(3, 6, 16, stride=16)
    nn.init.normal_(codec.g_a.weight, std=0.3)
    return codec


def other_codec() -> nn.Module:
    codec = small_codec()
    nn.init.ones_(codec.g_a.bias)
    return codec


def no_codec() -> nn.Module:
    return nn.Linear(1, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("frozen")
    random = np.random.default_rng(0)
    for kind, size in (("train", (64, 80)), ("test", (50, 70))):
        (made / kind).mkdir()
        for i in range(2):
            pixels = random.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(made / kind / f"{i}.png")
    return made


@pytest.fixture(scope="module")
def latents(folder):
    return cached_latents(folder / "latents.pt", f"{__name__}:small_codec", folder / "train", folder / "test")


def test_latents_are_whole_numbers_in_eight_ways_and_are_kept(folder, latents):
    assert (latents.M, len(latents.train), len(latents.test)) == (6, 16, 2)
    assert {tuple(y.shape) for y in latents.train} == {(6, 4, 5), (6, 5, 4)}
    assert latents.test[0].shape == (6, 4, 5)
    assert latents.pixels == [3500, 3500]
    again = cached_latents(folder / "latents.pt", f"{__name__}:small_codec", folder / "nowhere", folder / "nowhere")
    assert all(map(torch.equal, again.train, latents.train))


def test_latents_of_another_codec_are_refused(folder, latents):
    with pytest.raises(ArgumentError, match=r"holds latents of .*small_codec .*, not of .*other_codec"):
        cached_latents(folder / "latents.pt", f"{__name__}:other_codec", folder / "train", folder / "test")
    (folder / "damaged.pt").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="is damaged"):
        cached_latents(folder / "damaged.pt", f"{__name__}:small_codec", folder / "train", folder / "test")
    with pytest.raises(ArgumentError, match=r"x\.pt does not exist yet: give folders of images with --train"):
        cached_latents(folder / "x.pt", f"{__name__}:small_codec", folder / "train", None)
    with pytest.raises(ArgumentError, match="an encoder g_a is needed"):
        cached_latents(folder / "x.pt", f"{__name__}:no_codec", folder / "train", folder / "test")
    with pytest.raises(ArgumentError, match=r"takes a checkpoint\.pt or module:function, got 'nonsense'"):
        cached_latents(folder / "x.pt", "nonsense", folder / "train", folder / "test")


@pytest.mark.parametrize(
    "context",
    [
        "carried-state:dim=8,num_slices=2",
        "channel",
        "carried-state-scale-first:dim=8",
        "carried-state:dim=8,scales=integer",
    ],
)
def test_the_bytes_decode_to_the_whole_numbers(latents, context):
    """The decoder walks the same loop with what it has decoded, and ends at the same y."""
    from ssmctx.entropy.gains import Gain
    from ssmctx.entropy.scale_network.steps import scale_steps
    from ssmctx.entropy.steps import coding_steps, drive

    if context == "channel":
        context = "channel:num_slices=2"
    model = make_model(replace(PLAN, context=context), latents).eval()
    model.entropy_bottleneck.update()
    y = latents.test[0][None].float()
    with torch.no_grad():
        stream, z = model.encode(y)
        size = model.h_a(y).shape[2:]
        coded = model.decode_side(z, size, y.shape[2:], None, RansCoder())
        decoder = RansCoder().decoder(stream)
        network = model.scale_network
        walk = None if network is None else scale_steps(network, coded.symbols, Gain(), y.shape[2:])
        last = None

        def decoded(step):
            nonlocal last
            mean, scale = step.gather(step.mean), step.gather(step.scale)
            if walk is not None:
                scale = walk.send(last).values
            zeros, rows = symbols_and_rows(torch.zeros_like(mean), mean, scale, model.distribution)
            symbols = decoder.decode(rows.flatten().numpy().astype(np.uint16), shifted_tables(model.distribution))
            values = torch.from_numpy(symbols).view(mean.shape) - zeros
            last = torch.round(values - mean)
            return step.scatter(values - mean)

        y_hat = drive(coding_steps(model.context, coded.side), decoded)
    decoder.finish()
    assert torch.equal(y_hat.round(), y)


def test_a_table_row_holds_the_masses_around_its_mean():
    tables, law = shifted_tables(Laplace()), Laplace()
    scale = law.grid.values()[30]
    for j in (0, 5, FRACTIONS // 2, FRACTIONS - 1):
        row = 30 * FRACTIONS + j
        cdf = tables.cdfs[row][: tables.lengths[row]]
        symbols = tables.offsets[row] + torch.arange(len(cdf) - 2)
        mean = (j - FRACTIONS // 2) / FRACTIONS
        expected = law.likelihood(symbols.double() - mean, torch.tensor(scale, dtype=torch.float64))
        np.testing.assert_allclose(np.diff(cdf)[:-1] / 65536, expected.numpy(), atol=2 / 65536)


@pytest.mark.parametrize("mean", [-1.5, -0.51, -0.2, 0.0, 0.49, 0.5, 3.26])
def test_symbol_and_row_add_up_to_the_mean(mean):
    y = torch.arange(-3, 4)
    symbols, rows = symbols_and_rows(y, torch.full((7,), mean), torch.ones(7), Laplace())
    fraction = (rows % FRACTIONS - FRACTIONS // 2) / FRACTIONS
    assert (fraction.abs() <= 0.5).all()
    torch.testing.assert_close(y - symbols + fraction, torch.full((7,), mean), rtol=0, atol=0.5 / FRACTIONS)


def test_a_run_goes_on_where_it_was_interrupted(latents, tmp_path, monkeypatch):
    whole = train(PLAN, latents, tmp_path / "whole.pt")
    monkeypatch.setattr(training, "_SAVE_EVERY", -1.0)
    right, asked = training.crops, []

    def interrupted(latents, plan, step):
        asked.append(step)
        if asked.count(2) == 1 and step == 2:
            raise KeyboardInterrupt
        return right(latents, plan, step)

    monkeypatch.setattr(training, "crops", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(PLAN, latents, tmp_path / "run.pt")
    resumed = train(PLAN, latents, tmp_path / "run.pt")
    assert asked == [0, 1, 2, 2, 3]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_run_of_another_plan_or_codec_is_refused(latents, tmp_path):
    train(PLAN, latents, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="give another --out"):
        read_run(tmp_path / "run.pt", replace(PLAN, batch=3), latents)
    with pytest.raises(CheckpointError, match="give another --out"):
        read_run(tmp_path / "run.pt", PLAN, replace(latents, codec="other"))


def test_contexts_are_made_by_name_with_keywords(latents):
    context = make_context("carried-state:dim=8,num_slices=2", latents)
    assert (context.head[0][1].out_features, len(context.order.slices)) == (8, 2)
    torch.testing.assert_close(context.log_spread.exp(), latents.spread)
    with pytest.raises(UnknownNameError, match="nonsense"):
        make_context("nonsense", latents)
    with pytest.raises(ArgumentError, match="takes no dim"):
        make_context("none:dim=8", latents)


def test_a_context_for_another_number_of_channels_is_refused(latents, monkeypatch):
    monkeypatch.setattr(registry.contexts, "create", lambda name, M, **given: HyperOnlyContext(5))
    with pytest.raises(ArgumentError, match="none is made for 5 channels, the latents have 6"):
        make_context("none", latents)


def test_the_command_trains_rates_resumes_and_tells(folder, latents, tmp_path, monkeypatch, capsys):
    (tmp_path / "latents.pt").write_bytes((folder / "latents.pt").read_bytes())
    contexts = ["channel-spatial:num_slices=2", "none", "carried-state:scales=integer,dim=8,means_only=1"]
    command = ["contexts.py", "--out", str(tmp_path), "--codec", f"{__name__}:small_codec", "--json"]
    command += [str(tmp_path / "t.json"), "--batch", "1", "--crop", "3", "--steps", "3", "--contexts", *contexts]
    rated = [*command, "--time", "--rounds", "1", "--plot", str(tmp_path / "plot.png"), "--drift"]
    monkeypatch.setattr(sys, "argv", rated)
    bench.main()
    table = capsys.readouterr().out
    assert "channel-spatial" in table
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert {row["context"] for row in rows} == set(contexts)
    assert all(row["decode_s"] > 0 for row in rows)
    drifts = {row["context"]: row["drift"] for row in rows}
    assert drifts["carried-state:scales=integer,dim=8,means_only=1"]["0.01"] == 2
    assert all(drift["1e-07"] <= 2 for drift in drifts.values())
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert all((row["batch"], row["crop"], row["rate"]) == (1, 3, 1e-3) for row in rows)
    monkeypatch.setattr(bench, "train", None)  # nothing is trained again
    bench.main()
    other = tmp_path / "a.result.json"
    other.write_text(json.dumps({"plan": vars(replace(PLAN, context="mine"))}))
    with pytest.raises(ArgumentError, match=r"a\.result\.json: unknown context 'mine'.*; give the .* with --plugin"):
        bench.trained(latents, tmp_path)


def test_rows_of_several_seeds_have_a_mean_and_a_spread():
    def result(context, seed, bpp, law="laplace"):
        plan = vars(replace(PLAN, context=context, seed=seed, distribution=law))
        return {"plan": plan, "bpp": bpp, "parameters": 1, "multiply_adds": 1, "steps": 4, "machine": {"commit": "abc"}}

    rows = grouped(
        [
            result("channel-spatial", 0, 1.0),
            result("channel-spatial", 1, 1.02),
            result("channel-spatial", 0, 1.1, "gaussian"),
            result("none", 0, 1.212),
        ]
    )
    by_name = {(row["context"], row["distribution"]): row for row in rows}
    paper = by_name["channel-spatial", "laplace"]
    assert (paper["seeds"], round(paper["spread"], 6)) == (2, 0.02)
    assert round(by_name["none", "laplace"]["against_same"], 6) == 0.2
    assert round(paper["against_gaussian"], 6) == round(1.01 / 1.1 - 1, 6)
    assert "+20.0" in text_table(rows)


def test_labels_of_the_plot_lie_apart_and_inside(tmp_path, monkeypatch):
    placed = []
    label = frozen_plot._label

    def watched(axes, labels):
        label(axes, labels)
        placed.extend((axes.bbox, text.get_window_extent()) for text in axes.texts if text.get_text())

    monkeypatch.setattr(frozen_plot, "_label", watched)
    rows = [{"context": f"compressai-{i}", "decode_s": 0.05 + i / 500, "bpp": 0.2, "budget": "b"} for i in range(5)]
    names = ("carried-state", "channel-spatial")
    rows += [{"context": name, "decode_s": 0.1, "bpp": 0.25, "budget": "b"} for name in names]
    frozen_plot.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    boxes = [box for _, box in placed]
    assert len(boxes) == len(rows)
    assert all(axes.x0 <= box.x0 and box.x1 <= axes.x1 for axes, box in placed)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
