"""Evaluation: images through real files, curves, BD-rates and tables."""
