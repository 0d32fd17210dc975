"""Kernels that may take the place of `ssmctx.scan.triton`'s, once a GPU has shown that they are faster.

`gpu.py` times them in turns with those, and checks that they give the same results; its dry run does so in Triton's
interpreter. Until then they are counts of instructions, and no more: the winners move, the others go.
"""
