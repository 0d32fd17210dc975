"""The command `mambaic`, from a checkout: `python examples/mambaic_full.py --help`."""

from __future__ import annotations

import sys

from mambaic.__main__ import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(prog="mambaic_full.py"))
