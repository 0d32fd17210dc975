"""What the tests share: hypothesis settings, small models, the data beside the project."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import settings

SHARED = Path(__file__).resolve().parents[2] / "shared"

settings.register_profile("default", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden vectors and photographs."""
    if not SHARED.is_dir():
        pytest.skip("needs the project's shared data (golden vectors, Kodak), which is not beside this checkout")
    return SHARED


@pytest.fixture
def _one_process(tmp_path):
    """A group of one process, for what shards and replicates."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
