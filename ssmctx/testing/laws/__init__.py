"""The laws, one idea a file; each is a function that raises `LawBroken`."""

from __future__ import annotations
