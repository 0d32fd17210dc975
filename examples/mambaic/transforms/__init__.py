"""Transforms of the preset `base`, and where they start."""
