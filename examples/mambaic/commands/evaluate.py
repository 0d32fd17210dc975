"""`eval`: figures of a codec, from real files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

NAME, HELP = "eval", "code and decode a folder of pictures through real files"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--data", type=Path, required=True, help="folder of pictures, searched at any depth")
    parser.add_argument("--checkpoint", type=Path, required=True, help="what `train` wrote")
    parser.add_argument("--json", type=Path, default=None, help="write all figures to this file")


def run(options: argparse.Namespace) -> None:
    """Evaluate, print a table, write the JSON."""
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
