"""Notes to the user, beside a command's output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mambaic.curves import Curve


def note_different_pictures(curves: Sequence[Curve]) -> None:
    """Say on stderr if curves that are put beside one another were measured on different pictures."""
    from mambaic.curves import datasets

    measured_on = datasets(curves)
    if len(measured_on) > 1:
        print(f"note: these curves were measured on different pictures: {', '.join(measured_on)}", file=sys.stderr)
