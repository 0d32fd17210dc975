"""Whether `pip install ssmctx` finds a wheel of everything on every platform: no compiler is needed.

    python -m pip install uv
    python tools/check_wheels.py                       # about a minute; needs the network
    python tools/check_wheels.py --extra compressai    # fails: CompressAI has no wheels for some of them

uv resolves for platforms other than this one and reads metadata only. pip does not: `pip download --platform` takes
the wheels of that platform, but evaluates markers such as `sys_platform == "linux"` for the machine that it runs on.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux aarch64": "aarch64-manylinux_2_28",
    "macOS arm64": "aarch64-apple-darwin",
    "Windows amd64": "x86_64-pc-windows-msvc",
}
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SHOWN = ("torch", "numba", "numpy")


def resolve(platform: str, python: str, extras: list[str]) -> subprocess.CompletedProcess[str]:
    """uv's list of what would be installed; its errors where something has no wheel."""
    target = ["--python-platform", platform, "--python-version", python, "--no-python-downloads"]
    plain = ["--only-binary", ":all:", "--no-header", "--no-annotate", "--quiet"]
    chosen = [word for extra in extras for word in ("--extra", extra)]
    command = [sys.executable, "-m", "uv", "pip", "compile", *target, *plain, *chosen, "pyproject.toml"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def main() -> int:
    """Print the table; 1 where something needs a compiler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", default=[], metavar="NAME", help="with an extra; may be repeated")
    extras = parser.parse_args().extra
    if importlib.util.find_spec("uv") is None:
        raise SystemExit("uv is not installed: python -m pip install uv")
    print(f"| platform | Python | packages | {' | '.join(SHOWN)} |\n|---|---|---|{'---|' * len(SHOWN)}")
    failed = []
    for name, platform in PLATFORMS.items():
        for python in PYTHONS:
            done = resolve(platform, python, extras)
            found = dict(re.findall(r"^(\S+)==(\S+)", done.stdout, flags=re.M))
            if done.returncode:
                failed.append(f"{name}, Python {python}: {done.stderr.strip()}")
            cells = [str(len(found)), *(found.get(package, "-") for package in SHOWN)]
            print(f"| {name} | {python} | {' | '.join(cells if found else ['no'] * len(cells))} |", flush=True)
    print(*failed, sep="\n\n", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
