"""Work for several processes, which import it by name."""

from __future__ import annotations

import os

from mambaic.errors import DataError


def unreadable():
    raise DataError("no such checkpoint")


def dies():
    return os._exit
