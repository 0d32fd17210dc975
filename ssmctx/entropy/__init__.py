"""Entropy models, coding and files."""
