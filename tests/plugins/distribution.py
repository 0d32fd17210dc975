"""A distribution of one's own: Student's t with four degrees of freedom, whose tails are heavy."""

from __future__ import annotations

import numpy as np
import torch

from ssmctx import registry
from ssmctx.distributions import Distribution


class Student(Distribution):
    """With s = x / sqrt(2 + x^2) at a standard deviation of 1, P(X > x) = (1 - s)^2 (2 + s) / 4."""

    name = "student-4"

    def survival(self, x, scale):
        x = x / scale
        root = torch.sqrt(2 + x * x)
        far = x.clamp(min=0)  # 1 - s where it is small, without a difference of what is nearly equal
        rest = torch.where(x < 0, 1 - x / root, 2 / (root * (root + far)))
        return rest * rest * (3 - rest) / 4

    def half_mass(self, x):
        s = x / np.sqrt(2 + x * x)
        return 0.25 * s * (3 - s * s)


def register() -> None:
    registry.distributions.register("student-4", Student)
