"""Figures: rate-distortion plots, receptive fields, bits over the image."""
