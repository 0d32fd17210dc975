"""Types of command-line arguments."""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def count(text: str) -> int:
    """An integer of at least 1."""
    return _at_least(1, text)


def whole(text: str) -> int:
    """An integer of at least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text}")
    return value


def scale(text: str) -> float:
    """A number above 0, at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value


def png(text: str) -> Path:
    """The name of a PNG file to write."""
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"figures are PNG files: must end in .png, got {text}")
    return Path(text)


def quality(text: str) -> float:
    """A number from 0 to 100."""
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 100, got {text}")
    return value


def effort(text: str) -> int:
    """An integer from 0 to 9."""
    value = int(text)
    if not 0 <= value <= 9:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 9, got {text}")
    return value
