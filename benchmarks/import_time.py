"""What `import ssmctx` takes on top of `import torch`: fresh interpreters, alternating; medians.

python benchmarks/import_time.py --json benchmarks/results/import.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import machine

from ssmctx.files import write_whole

PROGRAMS = {
    "torch": "import torch",
    "torch, then ssmctx": "import torch, ssmctx",
    "torch, ssmctx and MambaICEntropyModel": "import torch, ssmctx; ssmctx.MambaICEntropyModel",
}


def seconds(program: str) -> float:
    """A fresh interpreter's time for a program."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    for program in PROGRAMS.values():  # files into the page cache
        seconds(program)
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(options.rounds):
        for name, program in PROGRAMS.items():
            times[name].append(seconds(program))
    rows = [{"name": name, "seconds": statistics.median(values)} for name, values in times.items()]
    extra = statistics.median(b - a for a, b, _ in zip(*times.values(), strict=True))
    for row in rows:
        print(f"{row['name']:24}{row['seconds']:8.2f} s")
    print(f"{'on top':24}{extra:8.2f} s")
    if options.json:
        report = {"machine": machine(), "rows": rows, "extra_s": extra}
        write_whole(options.json, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
