"""Context models on frozen latents: what `benchmarks/contexts.py` is made of."""
