"""Bridges to other people's code and checkpoints."""
