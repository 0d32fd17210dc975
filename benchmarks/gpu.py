"""What a GPU does with this library, in one run with a time limit: is it right, how fast, and do files cross?

    python benchmarks/gpu.py --minutes 8 --out runs/gpu --images kodak/ --data photographs/
    python benchmarks/gpu.py --out runs/dry --dry-run         # tiny sizes on the CPU, Triton's interpreter

The parts, the most important first, once the kernels are compiled: the tests that need a device; all registered
components on it; the scan with its cross-scan and merge beside mamba_ssm and the torch backend; constants of the
launches, and which to set; SS2D, the VSS block and deconvolutions; the codec from bytes to pixels and back; files that
cross devices; a training step; a training of what time is left.
Each runs in a process of its own, with a share of the time. What it finds is written at once, to gpu.json and, as the
tables of the docs, to gpu.md; a part that fails or runs out of time says so there and is passed over.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGAN = time.monotonic()
SHARES = {
    "device": 5,
    "compilation": 50,
    "tests": 75,
    "walk": 90,
    "scan": 35,
    "constants": 10,
    "blocks": 15,
    "codec": 60,
    "across": 45,
    "training step": 45,
    "training": 60,
}
"""Parts in order, and their shares: seconds, where there are eight minutes."""

ENDS_WITHIN = 3.0  # seconds that the program itself needs to end


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parse.add_argument
    add("--minutes", type=float, default=8.0, help="time limit (default %(default)s)")
    add("--out", type=Path, required=True, help="folder of the results")
    add("--images", type=Path, help="photographs whose files cross devices (default: noise)")
    add("--data", type=Path, help="images to train on at the end; without them nothing is trained")
    add("--flags", help='of that training, such as "--precision bf16 --lr 2e-3" (default: a cosine from 1e-3)')
    add("--commit", help="commit of this code, where it was copied without its repository (default: what git says)")
    add("--parts", nargs="+", choices=SHARES, default=list(SHARES), help="only these, in the order above")
    add("--dry-run", action="store_true", help="all parts at tiny sizes on the CPU: to test the program")
    return parse


def parts_of(plan: Any, inputs: Any) -> dict[str, Callable[[Any, Any], None]]:
    """What each part runs. What a part needs is imported in its own process, so that it fails there, too."""

    def part(module: str, function: str, *arguments: Any) -> Callable[[Any, Any], None]:
        def run(save: Any, clock: Any) -> None:
            from importlib import import_module

            getattr(import_module(f"on_gpu.{module}"), function)(*arguments, save, clock)

        return run

    return {
        "device": part("device", "describe", plan),
        "compilation": part("device", "compile_kernels", plan),
        "tests": part("device", "run_tests", plan),
        "walk": part("walk", "walk", plan),
        "scan": part("scans", "measure_scans", plan),
        "constants": part("knobs", "search", plan),
        "blocks": part("blocks", "measure_blocks", plan),
        "codec": part("codecs", "measure_codecs", plan),
        "across": part("across", "measure_across", plan, inputs),
        "training step": part("training", "measure_steps", plan),
        "training": part("training", "train_rest", plan, inputs),
    }


def main() -> int:
    """Run all parts; the exit code says whether all of them did what they should."""
    options = parser().parse_args()
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.path.insert(0, str(ROOT / "examples"))
    import torch  # noqa: F401  # before the parts fork, so that none of them has to load it
    from on_gpu.parts import Part, run_parts
    from on_gpu.plan import DRY, ON_GPU, Inputs
    from on_gpu.report import rendered, troubles

    from ssmctx.files import write_whole

    plan = DRY if options.dry_run else ON_GPU
    runs = parts_of(plan, Inputs(options.out, options.images, options.data, options.flags))
    options.out.mkdir(parents=True, exist_ok=True)

    def keep(report: dict[str, Any]) -> None:
        machine = report.get("device", {}).get("results", {}).get("machine", {})
        if machine and options.commit:
            machine["commit"] = options.commit
        content = {"machine": machine, "dry_run": options.dry_run, "minutes": options.minutes, "parts": report}
        write_whole(options.out / "gpu.json", (json.dumps(content, indent=1, default=str) + "\n").encode())
        write_whole(options.out / "gpu.md", rendered(content).encode())

    end = BEGAN + 60 * options.minutes - ENDS_WITHIN
    parts = [Part(name, SHARES[name], runs[name]) for name in SHARES if name in options.parts]
    wrong = troubles(run_parts(parts, end, keep))
    print("\n" + (options.out / "gpu.md").read_text())
    print("\n".join(wrong) if wrong else "all parts are done")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
