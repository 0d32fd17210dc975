"""MambaIC end to end: train the full codec, evaluate it, and turn images into files and back.

python examples/mambaic_full.py demo
python examples/mambaic_full.py train --data photos/ --preset tiny --out tiny.pt
python examples/mambaic_full.py eval --data kodak/ --checkpoint tiny.pt --json kodak.json
python examples/mambaic_full.py plot kodak.json --out rd.png
python examples/mambaic_full.py bdrate mambaic elic --anchor vtm
python examples/mambaic_full.py explain photo.png --checkpoint tiny.pt
python examples/mambaic_full.py compress photo.png photo.sic --effort 3
python examples/mambaic_full.py decompress photo.sic photo.png
"""

from __future__ import annotations

import sys

from mambaic.__main__ import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(prog="mambaic_full.py"))
