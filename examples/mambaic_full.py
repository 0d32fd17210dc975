"""MambaIC end to end: train the full codec, evaluate it, and turn pictures into files and back.

python examples/mambaic_full.py demo
python examples/mambaic_full.py train --data photos/ --preset tiny --out tiny.pt
python examples/mambaic_full.py eval --data kodak/ --checkpoint tiny.pt --json kodak.json
python examples/mambaic_full.py compress photo.png photo.sic --checkpoint tiny.pt
python examples/mambaic_full.py decompress photo.sic photo.png --checkpoint tiny.pt
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit code: 0, or 2 after a one-line error."""
    options = _parser().parse_args(arguments)
    from ssmctx.errors import SsmctxError

    try:
        options.run(options)
    except SsmctxError as error:
        print(f"mambaic: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mambaic: {type(error).__name__}: {error}: check the path, its rights and the disk", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mambaic: stopped; the last checkpoint is whole", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="mambaic_full.py", description=__doc__, formatter_class=formatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run, text: str) -> argparse.ArgumentParser:
        defaults = argparse.ArgumentDefaultsHelpFormatter
        command = commands.add_parser(name, help=text, description=text, formatter_class=defaults)
        command.set_defaults(run=run)
        return command

    c = add("train", _train, "train a codec on a folder of pictures")
    c.add_argument("--data", type=Path, required=True, help="folder of pictures, searched at any depth")
    c.add_argument("--out", type=Path, default=Path("mambaic.pt"), help="checkpoint to write")
    c.add_argument("--preset", default="tiny", help="size of the codec: tiny, small or full (the paper's)")
    c.add_argument("--variant", default="mambaic", help="what the codec is made of; an unknown name lists them all")
    c.add_argument("--lmbda", "--lambda", type=_positive, default=0.0067, help="weight of distortion against rate")
    c.add_argument("--epochs", type=_count, default=250, help="passes over the pictures")
    c.add_argument("--steps", type=_count, default=None, help="optimiser steps, instead of --epochs")
    c.add_argument("--minutes", type=_positive, default=math.inf, help="stop after this long at the latest")
    c.add_argument("--batch-size", type=_count, default=8, help="crops in a step")
    c.add_argument("--crop", type=_count, default=256, help="side of the random crops, in pixels")
    c.add_argument("--lr", type=_positive, default=1e-4, help="learning rate; tiny likes 1e-3")
    c.add_argument("--aux-lr", type=_positive, default=1e-3, help="learning rate of the quantiles of z")
    c.add_argument("--clip", type=_positive, default=1.0, help="largest norm of the gradient")
    c.add_argument("--seed", type=int, default=0, help="seed of weights, crops and noise")
    c.add_argument("--workers", type=int, default=0, help="processes that load pictures")
    c.add_argument("--checkpoint-minutes", type=_positive, default=5.0, help="write the checkpoint this often")
    c.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")

    c = add("eval", _evaluate, "code and decode a folder of pictures through real files")
    c.add_argument("--data", type=Path, required=True, help="folder of pictures, searched at any depth")
    c.add_argument("--checkpoint", type=Path, required=True, help="what `train` wrote")
    c.add_argument("--json", type=Path, default=None, help="write all figures to this file")

    c = add("compress", _compress, "code one picture into a .sic file")
    c.add_argument("source", type=Path, help="picture, of any size")
    c.add_argument("target", type=Path, help=".sic file to write")
    c.add_argument("--checkpoint", type=Path, required=True, help="what `train` wrote")
    c.add_argument("--reconstruction", type=Path, default=None, help="also write what the decoder will see, as PNG")

    c = add("decompress", _decompress, "decode a .sic file into a PNG file")
    c.add_argument("source", type=Path, help=".sic file")
    c.add_argument("target", type=Path, help="PNG file to write")
    c.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint that the file was coded with")

    c = add("demo", _demo, "train tiny for some minutes on photographs, code one it has not seen, compare with JPEG")
    c.add_argument("--out", type=Path, default=Path("demo"), help="folder for all files it makes")
    c.add_argument("--minutes", type=_positive, default=5.0, help="how long to train")
    c.add_argument("--steps", type=_count, default=None, help="train this many steps at most")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return value


def _train(options: argparse.Namespace) -> None:
    from mambaic.train import TrainingPlan, train

    plan = {name: value for name, value in vars(options).items() if name != "run"}
    history = train(TrainingPlan(**plan))
    print(f"wrote {options.out} after {len(history)} steps")


def _evaluate(options: argparse.Namespace) -> None:
    from mambaic.checkpoint import load_model
    from mambaic.evaluate import evaluate
    from mambaic.files import PictureCodec

    from ssmctx.entropy.container import write_whole

    result = evaluate(PictureCodec(load_model(options.checkpoint)), options.data)
    print(f"{'picture':24}{'bpp':>9}{'estimated':>11}{'PSNR dB':>9}{'MS-SSIM dB':>12}{'encode s':>10}{'decode s':>10}")
    for row in [*result["images"], {"name": "mean", **result["mean"]}]:
        ms_ssim = "-" if row["ms_ssim_db"] is None else f"{row['ms_ssim_db']:.2f}"
        print(
            f"{row['name'][-23:]:24}{row['bpp']:>9.4f}{row['bpp_estimated']:>11.4f}{row['psnr']:>9.2f}{ms_ssim:>12}"
            f"{row['encode_s']:>10.2f}{row['decode_s']:>10.2f}"
        )
    if options.json is not None:
        write_whole(options.json, json.dumps(result, indent=1).encode())


def _compress(options: argparse.Namespace) -> None:
    from mambaic.checkpoint import load_model
    from mambaic.files import PictureCodec, compress_file

    codec = PictureCodec(load_model(options.checkpoint))
    written = compress_file(codec, options.source, options.target, options.reconstruction)
    print(f"wrote {options.target}: {written.bytes} bytes, {written.bpp:.4f} bpp")


def _decompress(options: argparse.Namespace) -> None:
    from mambaic.checkpoint import load_model
    from mambaic.files import PictureCodec, decompress_file

    width, height = decompress_file(PictureCodec(load_model(options.checkpoint)), options.source, options.target)
    print(f"wrote {options.target}: {width} x {height}")


def _demo(options: argparse.Namespace) -> None:
    from mambaic.demo import demo

    demo(options.out, options.minutes, options.steps)


if __name__ == "__main__":
    sys.exit(main())
