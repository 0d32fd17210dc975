"""The example as its users run it: every sub-command, every size, every bad input. Training has files of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mambaic.checkpoint import load_model, save_checkpoint
from mambaic.codec import PRESETS, MambaIC
from mambaic.images.coding import compress_file, decompress_file
from mambaic.images.image_files import find_images, read_image, to_float, write_png
from mambaic_full import main
from sample_images import sample_image, write_photos

from ssmctx.codec.streams import usual_shape
from ssmctx.entropy import CodedImage

PROGRAM = Path(__file__).parents[1] / "examples" / "mambaic_full.py"


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, photos) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.pt"
    flags = ["--data", photos, "--out", path, "--steps", 4, "--batch-size", 2, "--crop", 64, "--lr", 1e-3]
    assert run("train", *flags) == 0
    return path


@pytest.fixture(scope="session")
def codec(checkpoint) -> MambaIC:
    return load_model(checkpoint)


def run(*arguments) -> int:
    return main([str(a) for a in arguments])


# --- the main job


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (257, 129), (128, 128), (513, 767)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_sizes_round_trip(codec, tmp_path, size):
    source, coded, decoded, own = (tmp_path / n for n in ("in.png", "out.sic", "out.png", "own.png"))
    write_png(source, sample_image(*size))
    written = compress_file(codec, source, coded, own)
    assert written.bytes == coded.stat().st_size
    assert decompress_file(codec, coded, decoded) == (size[1], size[0])
    assert torch.equal(read_image(decoded), read_image(own))
    assert read_image(decoded).shape == (3, *size)


def test_a_fresh_process_decodes_to_the_encoders_reconstruction(checkpoint, tmp_path):
    source, coded, decoded, own = (tmp_path / n for n in ("in.png", "out.sic", "out.png", "own.png"))
    write_png(source, sample_image(100, 75))
    assert run("compress", source, coded, "--checkpoint", checkpoint, "--reconstruction", own) == 0
    subprocess.run([sys.executable, PROGRAM, "decompress", coded, decoded, "--checkpoint", checkpoint], check=True)
    assert torch.equal(read_image(decoded), read_image(own))


def test_kodak_files_decode_exactly(codec, shared, tmp_path):
    for path in find_images(shared / "data" / "kodak")[::8]:
        compress_file(codec, path, tmp_path / "k.sic", tmp_path / "own.png")
        decompress_file(codec, tmp_path / "k.sic", tmp_path / "k.png")
        assert torch.equal(read_image(tmp_path / "k.png"), read_image(tmp_path / "own.png"))


# --- the codec


def test_the_full_preset_has_the_papers_sizes():
    with torch.device("meta"):
        model = MambaIC("full")
    assert PRESETS["full"].depths == (2, 2, 9, 2)
    assert model.g_a[0].weight.shape == (256, 3, 5, 5)
    assert model.g_a[-1].weight.shape == (320, 256, 3, 3)
    assert len(model.g_a) == len(model.g_s) == 4 + 13
    assert model.latent_codec.context.order.slices == (64,) * 5
    assert model.latent_codec.hyper_channels == 192


@pytest.mark.parametrize("size", [(1, 1), (16, 17), (64, 65), (31, 300)])
def test_files_need_not_tell_the_sizes_of_the_latents(codec, size):
    coded = codec.compress(to_float(sample_image(*size)))
    assert coded["shape"] == {**usual_shape(size, codec.stride), "x": size}
    assert CodedImage.from_bytes(codec.encode(sample_image(*size))).shape is None


# --- bad input: one typed line, exit code 2, nothing half-written


@pytest.fixture
def bad(tmp_path, codec):
    """Files that are wrong, each in its own way."""
    write_png(tmp_path / "good.png", sample_image(40, 40))
    compress_file(codec, tmp_path / "good.png", tmp_path / "good.sic", None)
    data = (tmp_path / "good.sic").read_bytes()
    (tmp_path / "cut.sic").write_bytes(data[:-9])
    (tmp_path / "flipped.sic").write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    (tmp_path / "text.png").write_text("this is no image")
    (tmp_path / "half.png").write_bytes((tmp_path / "good.png").read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    other = MambaIC("tiny")
    other.update()
    save_checkpoint(tmp_path / "other.pt", other, {})
    torch.save({"format": "x"}, tmp_path / "foreign.pt")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("compress {b}/text.png {o} --checkpoint {c}", "DataError: cannot read .*text.png as an image .*convert it"),
        ("compress {b}/half.png {o} --checkpoint {c}", "DataError: cannot read .*half.png as an image .*convert it"),
        ("compress {b}/none.png {o} --checkpoint {c}", "DataError: no file .*none.png: check the path"),
        ("compress {b}/good.png {o} --checkpoint {b}/none.pt", "CheckpointError: no checkpoint .*none.pt: train one"),
        ("compress {b}/good.png {o} --checkpoint {b}/text.png", "CheckpointError: .*text.png is not a checkpoint"),
        ("compress {b}/good.png {o} --checkpoint {b}/foreign.pt", "CheckpointError: .*foreign.pt is not a checkpoint"),
        (
            "decompress {b}/cut.sic {o} --checkpoint {c}",
            "CorruptStreamError: the header requires .*truncated or damaged",
        ),
        ("decompress {b}/flipped.sic {o} --checkpoint {c}", "CorruptStreamError: the file's checksum is wrong"),
        ("decompress {b}/good.png {o} --checkpoint {c}", r"CorruptStreamError: not a \.sic file"),
        ("decompress {b}/none.sic {o} --checkpoint {c}", "DataError: no file .*none.sic"),
        (
            "decompress {b}/good.sic {o} --checkpoint {b}/other.pt",
            "ModelMismatchError: the file was written with model",
        ),
        ("train --data {b}/empty --out {o}", "DataError: no images in .*empty"),
        ("train --data {b}/none --out {o}", "DataError: no folder .*none"),
        (
            "train --data {b} --out {o} --crop 64",
            r"DataError: none of the 3 .* 2 are smaller than 64x64 .* 1 cannot be read",
        ),
        ("train --data {b}/empty --out {o} --preset huge", "ArgumentError: unknown preset 'huge'; known: tiny, small"),
        ("train --data {b} --out {o} --metric ssim", "ArgumentError: unknown metric 'ssim'; known: mse, ms-ssim"),
        ("train --data {b} --out {o} --schedule step", "ArgumentError: unknown schedule 'step'; known: constant, mile"),
        ("train --data {b} --out {o} --precision fp8", "ArgumentError: unknown precision 'fp8'; known: no, bf16, fp16"),
        ("train --data {b} --out {o} --metric ms-ssim --crop 160", "ArgumentError: MS-SSIM .* at least 161 .*got 160"),
        ("train --data {b} --out {o} --quality 7", "ArgumentError: quality must be 1 to 6, got 7"),
        ("train --data {b} --out {o} --ema 1", "ArgumentError: the decay .* between 0 and 1, got 1.0"),
        ("train --data {b} --out {o} --milestones 3 5", "ArgumentError: milestones are rising parts of the run"),
        ("eval --data {b}/empty --checkpoint {c}", "DataError: no images in .*empty"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(bad, checkpoint, capsys, command, message):
    before = sorted(bad.iterdir())
    arguments = command.format(b=bad, o=bad / "out", c=checkpoint).split()
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("mambaic: ")
    assert re.search(message, lines[0]), lines[0]
    assert sorted(bad.iterdir()) == before


def test_unwritable_target(bad, checkpoint, capsys):
    target = bad / "good.png" / "out.sic"
    assert run("compress", bad / "good.png", target, "--checkpoint", checkpoint) == 2
    assert "check the path, its permissions and the disk" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["train"], ["eval"], ["compress"], ["decompress"], ["demo"]])
def test_help_explains(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "--checkpoint" in capsys.readouterr().out or command in ([], ["train"], ["demo"])


@pytest.mark.parametrize("flag", [["--steps", "0"], ["--lr", "-1"], ["--crop", "x"]])
def test_bad_flags_are_usage_errors(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", "x", *flag])
    assert stop.value.code == 2
    assert flag[0] in capsys.readouterr().err
