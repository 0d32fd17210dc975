"""Small codecs for the conformance kit: sound ones, and ones with one realistic bug each."""

from __future__ import annotations
