"""`classical`: JPEG, WebP and AVIF on a folder of images."""

from __future__ import annotations

import argparse
from pathlib import Path

from mambaic.commands.common.outputs import keep
from mambaic.commands.common.types import count, scale

NAME, HELP = "classical", "measure JPEG, WebP and AVIF, by Pillow, on a folder of images"
EXAMPLES = """examples:
  %(prog)s --data kodak/ --out classical/
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of images, searched at any depth")
    add("--out", type=Path, required=True, help="folder for jpeg.json, webp.json, avif.json, in CompressAI's layout")
    add("--overwrite", action="store_true", help="replace existing results")
    add("--codecs", nargs="+", default=["jpeg", "webp", "avif"], help="which of jpeg, webp and avif")
    add("--jobs", type=count, default=1, help="processes that share the images")
    add("--scale", type=scale, default=1.0, help="make the images smaller by this factor first")


def run(options: argparse.Namespace) -> None:
    """Measure each codec and write its file; a format that Pillow does not support ends the command."""
    from mambaic.evaluation.classical import measure
    from mambaic.evaluation.curves import LABELS, Curve, write_curve

    keep([options.out / f"{codec}.json" for codec in options.codecs], options.overwrite, "move them")
    for codec in options.codecs:
        content = measure(codec, options.data, options.jobs, options.scale)
        write_curve(options.out / f"{codec}.json", content)
        curve = Curve(content["name"], content["results"])
        print(f"wrote {options.out / codec}.json: {content['description']}")
        columns = {metric: curve.points(metric) for metric in LABELS if curve.has(metric)}
        print(f"{'bpp':>8}" + "".join(f"{LABELS[metric]:>14}" for metric in columns))
        rates, _ = next(iter(columns.values()))
        for i, rate in enumerate(rates):
            print(f"{rate:>8.4f}" + "".join(f"{quality[i]:>14.2f}" for _, quality in columns.values()))
