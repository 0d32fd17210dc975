"""Trains without noise and keeps the gradients of every step; one of the processes that a test launches runs this.

python launched.py OUT FLAGS-OF-TRAIN...
"""

import os
import sys

import torch
from mambaic.training.engine import Engine
from mambaic_full import main


def without_noise(patch) -> None:
    """Let the uniform noise of the rate be zero, which no two ways of sharing out a batch would draw alike."""
    patch(torch, "rand_like", lambda tensor: torch.full_like(tensor, 0.5))


def keep_gradients(patch) -> list[list[torch.Tensor]]:
    """The gradients with which the weights will have been moved, step by step."""
    kept: list[list[torch.Tensor]] = []
    move = Engine._move

    def spy(engine, factor):
        kept.append([weight.grad.clone() for weight in engine.weights])
        move(engine, factor)

    patch(Engine, "_move", spy)
    return kept


if __name__ == "__main__":
    torch.set_num_threads(1)
    without_noise(setattr)
    gradients = keep_gradients(setattr)
    code = main(sys.argv[2:])
    torch.save(gradients, f"{sys.argv[1]}.{os.environ['RANK']}")
    sys.exit(code)
