"""`eval`: figures of a codec, from real files."""

from __future__ import annotations

import argparse
from pathlib import Path

from mambaic.commands.common.outputs import check_outputs, keep, tell
from mambaic.commands.common.types import count, effort, quality, scale

NAME, HELP = "eval", "code and decode a folder of images through real files"
EXAMPLES = """examples:
  one image after the other, all cores on each, for times that mean something
    %(prog)s --data kodak/ --checkpoint l1.pt l2.pt l3.pt l4.pt --json ours.json
  rates and qualities as fast as eight cores go
    %(prog)s --data clic/ --checkpoint l1.pt --jobs 8
  a variable-rate checkpoint makes a curve alone; with ten steps of refinement for each image
    %(prog)s --data kodak/ --checkpoint base --quality 0 25 50 75 100 --effort 3 --json base.json
  CompressAI's tools read the result
    python -m compressai.utils.plot -f ours.json -m psnr -o rd.png
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of images, searched at any depth")
    add("--checkpoint", type=Path, nargs="+", required=True, help="checkpoints of `train`, or names of bundled ones, "
        "base or tiny; several make one curve")  # fmt: skip
    add("--quality", type=quality, nargs="+", default=None, metavar="0-100", help="qualities to evaluate, for a "
        "variable-rate checkpoint; default: all trained ones")  # fmt: skip
    add("--effort", type=effort, default=0, metavar="0-9", help="encoder effort, as in `compress`")
    add("--json", type=Path, default=None, help="write all figures to this file, in CompressAI's layout")
    add("--overwrite", action="store_true", help="replace an existing --json")
    add("--name", default=None, help="of the curve; default the codec's preset and variant")
    add("--device", default="cpu", help="device of the networks, such as cpu or cuda")
    add("--jobs", type=count, default=1, help="processes of one thread each that share the images; 1 uses all cores")
    add("--scale", type=scale, default=1.0, help="make the images smaller by this factor first")


def run(options: argparse.Namespace) -> None:
    """Evaluate, print a table for each checkpoint, write the JSON."""
    from mambaic.evaluation.curves import write_curve
    from mambaic.evaluation.evaluate import evaluate
    from mambaic.evaluation.results import table
    from mambaic.images.measure import MS_SSIM_MIN_SIDE

    check_outputs({"--json": options.json}, options.checkpoint)
    if options.json is not None:
        keep([options.json], options.overwrite, "move it")
    where = {"device": options.device, "jobs": options.jobs, "scale": options.scale}
    how = {"effort": options.effort, "qualities": options.quality}
    content = evaluate(options.checkpoint, options.data, options.name, **where, **how)
    meta = content["meta"]
    for point, (name, at) in enumerate(zip(meta["checkpoints"], meta["qualities"], strict=True)):
        name = name if at is None else f"{name} at quality {at:g}"
        tell(f"{name}\n{table(content, point)}\n", options.json)
    if "ms-ssim-rgb" not in content["results"]:
        tell(f"no mean MS-SSIM: it needs images of at least {MS_SSIM_MIN_SIDE} pixels a side", options.json)
    if options.json is not None:
        write_curve(options.json, content)
        tell(f"wrote {options.json}", options.json)
