"""Evaluation as its users run it: real files, CompressAI's layout, several processes, classical codecs."""

import json
import shutil
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from compressai.utils.plot.__main__ import main as compressai_plot
from compressai.utils.plot.__main__ import parse_json_file
from example_files import image_folder, untrained
from example_work import dies, unreadable
from mambaic.checkpoint import load_model
from mambaic.errors import DataError, EvaluationError
from mambaic.evaluation import classical, results
from mambaic.evaluation.curves import decibels, read_curve
from mambaic.evaluation.evaluate import ImageEvaluator, Point, evaluate
from mambaic.evaluation.timing import Stopwatch, stopwatch
from mambaic.images.image_files import read_image, read_scaled
from mambaic.images.measure import quality
from mambaic.images.parallel import for_each
from mambaic_full import main
from PIL import Image, features
from sample_images import sample_image

import ssmctx.stages
from ssmctx import ImageCodec
from ssmctx.errors import ArgumentError, CheckpointError, StreamError
from ssmctx.stages import observe, stage


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("untrained")
    return [untrained(folder / f"{gain}.pt", gain) for gain in (4, 1)]


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    return image_folder(tmp_path_factory.mktemp("evaluated"), (64, 80), (65, 48))


@pytest.fixture(scope="session")
def large(tmp_path_factory) -> Path:
    """Images that are large enough for MS-SSIM."""
    return image_folder(tmp_path_factory.mktemp("large"), (161, 170), (170, 161))


@pytest.fixture(scope="session")
def evaluated(checkpoints, large, tmp_path_factory) -> Path:
    """What `eval` writes of two checkpoints."""
    file = tmp_path_factory.mktemp("json") / "eval.json"
    command = ["eval", "--data", large, "--checkpoint", *checkpoints, "--json", file]
    assert main([str(part) for part in command]) == 0
    return file


def untimed(content: dict) -> dict:
    """Results without what differs from run to run."""
    kept = {key: values for key, values in content["results"].items() if "time" not in key}
    images = {n: {k: v for k, v in i.items() if "time" not in k} for n, i in content["images"].items()}
    return {"results": kept, "images": images}


# --- what is measured


def test_results_are_of_files_on_disk_and_sorted_by_rate(evaluated, checkpoints, large):
    content = json.loads(evaluated.read_text())
    assert content["meta"]["checkpoints"] == ["1.pt", "4.pt"]
    assert content["meta"]["lambdas"] == [1, 4]
    assert content["results"]["bpp"] == sorted(content["results"]["bpp"])
    assert list(content["images"]) == ["1.png", "nested/0.png"]
    for i, checkpoint in enumerate(reversed(checkpoints)):
        codec = load_model(checkpoint)
        for name, image in content["images"].items():
            pixels = read_image(large / name)
            data, y_hat = codec.encode_with_latent(pixels)
            assert image["bytes"][i] == len(data)
            assert image["bpp"][i] == 8 * image["bytes"][i] / (image["width"] * image["height"])
            assert (image["height"], image["width"]) == pixels.shape[1:]
            own = codec.image_of(y_hat, pixels.shape[1:])
            assert quality(own, pixels) == {key: image[key][i] for key in ("psnr-rgb", "ms-ssim-rgb")}
        for key, values in content["results"].items():
            assert values[i] == fmean(image[key][i] for image in content["images"].values())


def test_times_are_split_in_network_coder_and_transfer(evaluated):
    results = json.loads(evaluated.read_text())["results"]
    for which in ("encoding", "decoding"):
        parts = [results[f"{which}_time_{part}"] for part in ("network", "coder", "transfer")]
        assert np.allclose(np.sum(parts, axis=0), results[f"{which}_time"], atol=1e-12)
        assert all(seconds > 0 for seconds in (*parts[0], *parts[1]))
        assert all(seconds >= 0 for seconds in parts[2])


def test_compressai_reads_and_plots_the_results(evaluated, tmp_path):
    for metric in ("psnr", "ms-ssim"):
        read, own = parse_json_file(evaluated, metric), read_curve(evaluated)
        rates, qualities = own.points(metric)
        assert (read["name"], list(read["xs"])) == (own.name, rates) == ("ssmctx tiny mambaic", rates)
        assert np.allclose(read["ys"], qualities)
        compressai_plot(["-f", str(evaluated), "-m", metric, "-o", str(tmp_path / f"{metric}.png")])
        assert Image.open(tmp_path / f"{metric}.png").size[0] > 500


def test_small_images_have_no_ms_ssim_and_the_mean_says_so(checkpoints, tmp_path, capsys):
    folder = image_folder(tmp_path / "mixed", (161, 161), (160, 161))
    assert (
        main(["eval", "--data", str(folder), "--checkpoint", str(checkpoints[1]), "--json", str(tmp_path / "e")]) == 0
    )
    content = json.loads((tmp_path / "e").read_text())
    assert content["images"]["1.png"]["ms-ssim-rgb"] == [None]
    assert content["images"]["nested/0.png"]["ms-ssim-rgb"][0] > 0
    assert "ms-ssim-rgb" not in content["results"]
    assert "no mean MS-SSIM: it needs images of at least 161" in capsys.readouterr().out


def test_quality_of_equal_pixels_is_finite():
    pixels = sample_image(170, 170)
    assert quality(pixels, pixels) == {"psnr-rgb": 100.0, "ms-ssim-rgb": pytest.approx(1)}
    assert decibels(1.0) == 100.0
    assert decibels(0.99) == pytest.approx(20)


def test_the_table_has_images_and_mean(evaluated):
    content = json.loads(evaluated.read_text())
    header, *rows = results.table(content, 1).splitlines()
    assert header.split()[:3] == ["image", "bpp", "estimated"]
    assert [row.split()[0] for row in rows] == ["1.png", "nested/0.png", "mean"]
    assert float(rows[-1].split()[1]) == pytest.approx(content["results"]["bpp"][1], abs=1e-4)
    assert len({len(row) for row in (header, *rows)}) == 1


def test_images_are_made_smaller(checkpoints, photos):
    content = evaluate(checkpoints[:1], photos, scale=0.5)
    assert {(i["height"], i["width"]) for i in content["images"].values()} == {(32, 40), (32, 24)}
    assert content["meta"]["pixels"] == (32 * 40 + 32 * 24) / 2
    with pytest.raises(DataError, match=r"has no pixel left at scale 0\.001: choose a larger --scale"):
        read_scaled(photos / "1.png", 0.001)


def test_a_file_that_decodes_to_other_pixels_ends_the_evaluation(checkpoints, photos, monkeypatch):
    decode = ImageCodec.decode
    monkeypatch.setattr(ImageCodec, "decode", lambda *a: decode(*a) ^ 1)
    with pytest.raises(StreamError, match="did not decode to the encoder's reconstruction"):
        ImageEvaluator(photos, "cpu", 1.0)((Point(checkpoints[0]), photos / "1.png"))


# --- several processes


def test_several_processes_measure_the_same(checkpoints, photos):
    alone, together = (evaluate(checkpoints, photos, jobs=jobs) for jobs in (1, 2))
    assert untimed(alone) == untimed(together)
    assert (together["meta"]["jobs"], together["meta"]["threads"]) == (2, 1)


def test_a_file_that_cannot_be_read_is_left_out_named_and_counted(checkpoints, photos, tmp_path, capsys):
    folder = tmp_path / "mixed"
    shutil.copytree(photos, folder)
    (folder / "cut.png").write_bytes((photos / "1.png").read_bytes()[:900])
    mixed, jpeg = evaluate(checkpoints[:1], folder), classical.measure("jpeg", folder)
    told = capsys.readouterr().err
    assert told.count("cut.png") == told.count("left out 1 of 3 images") == 2
    assert mixed["meta"]["left_out"] == jpeg["meta"]["left_out"] == 1
    assert untimed(mixed) == untimed(evaluate(checkpoints[:1], photos))
    assert list(jpeg["images"]) == list(mixed["images"])


def test_errors_of_processes_arrive_as_they_were():
    for jobs in (1, 2):
        with pytest.raises(DataError, match="no such checkpoint"):
            for_each(unreadable, [1], jobs, "test")
    with pytest.raises(EvaluationError, match=r"one of 2 processes died, .*: lower --jobs"):
        for_each(dies, [1], 2, "test")


def test_processes_do_not_share_an_accelerator(checkpoints, photos):
    with pytest.raises(ArgumentError, match="2 processes would share one cuda: use --jobs 1 there, or --device cpu"):
        evaluate(checkpoints, photos, device="cuda", jobs=2)


def test_a_missing_checkpoint_ends_before_anything_is_coded(checkpoints, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageEvaluator, "__call__", None)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*none\.pt"):
        evaluate([checkpoints[0], tmp_path / "none.pt"], photos)


# --- the stopwatch


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that moves only when it is told to."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(ssmctx.stages.time, "perf_counter", lambda: clock.seconds)
    return clock


def test_the_coder_is_timed_by_itself(clock):
    def interrupted_after(seconds):
        clock.seconds += seconds
        raise KeyboardInterrupt

    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    with observe(watch):
        clock.seconds += 1
        with stage("coder"):
            clock.seconds += 2
        with stage("context", 3):
            clock.seconds += 4
            with stage("coder", 3):
                clock.seconds += 8
            with pytest.raises(KeyboardInterrupt), stage("transfer"):
                interrupted_after(16)
        clock.seconds += 32
    assert watch.lap() == {"total": 63, "network": 37, "coder": 10, "transfer": 16}
    watch.start()
    assert watch.lap() == {"total": 0, "network": 0, "coder": 0, "transfer": 0}
    with stage("coder"):  # nobody observes
        clock.seconds += 1
    assert watch.lap() == {"total": 1, "network": 1, "coder": 0, "transfer": 0}


def test_a_codec_tells_of_coder_and_transfer(checkpoints):
    """In the encoder and in the decoder, and inside no other stage than the guard."""
    codec, told = load_model(checkpoints[0]), []
    names = SimpleNamespace(begin=lambda name, _: told.append(name), end=lambda name, _: told.append(f"/{name}"))
    with observe(names):
        data = codec.encode(sample_image(40, 50))
    encoded, told[:] = told[:], []
    with observe(names):
        codec.decode(data)
    for stages in (encoded, told):
        assert {"coder", "transfer", "context", "h_s", "g_s" if stages is told else "g_a"} <= set(stages)
        open_stages = []
        for name in stages:
            if name.startswith("/"):
                assert open_stages.pop() == name[1:]
                continue
            assert name not in ("coder", "transfer") or set(open_stages) <= {"guard", "coder"}
            open_stages.append(name)
        assert not open_stages


def test_the_stopwatch_changes_no_byte_and_observes_no_longer(checkpoints):
    codec, pixels = load_model(checkpoints[0]), sample_image(40, 50)
    expected = codec.encode(pixels)
    with stopwatch(codec) as watch:
        assert codec.encode(pixels) == expected
    assert watch.seconds["coder"] > 0
    with pytest.raises(KeyboardInterrupt), stopwatch(codec) as watch:
        raise KeyboardInterrupt
    codec.encode(pixels)
    assert not watch.seconds


# --- JPEG, WebP, AVIF


@pytest.mark.parametrize("codec", classical.CODECS)
def test_classical_codecs_are_measured_in_the_same_layout(codec, photos, tmp_path, capsys):
    if not features.check(classical.CODECS[codec].feature):
        pytest.skip(f"this Pillow was built without {codec}")
    assert main(["classical", "--data", str(photos), "--out", str(tmp_path), "--codecs", codec]) == 0
    content = json.loads((tmp_path / f"{codec}.json").read_text())
    curve = read_curve(tmp_path / f"{codec}.json")
    rates, quality = curve.points("psnr")
    assert len(rates) == len(classical.CODECS[codec].qualities) == len(content["meta"]["qualities"])
    assert quality[-1] > quality[0] + 3
    image = content["images"]["1.png"]
    assert image["bpp"] == [8 * size / (65 * 48) for size in image["bytes"]]
    assert parse_json_file(tmp_path / f"{codec}.json", "psnr")["name"] == classical.CODECS[codec].name
    assert "bpp" in capsys.readouterr().out


def test_classical_codecs_that_are_not_there(photos, monkeypatch):
    with pytest.raises(ArgumentError, match="unknown codec 'bpg'; known: jpeg, webp, avif"):
        classical.measure("bpg", photos)
    monkeypatch.setattr(classical.features, "check", lambda feature: False)
    with pytest.raises(EvaluationError, match=r"this Pillow \(.*\) was built without AVIF: install another build"):
        classical.measure("avif", photos)
