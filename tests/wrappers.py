"""What people put around modules."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


class Wrapper(nn.Module):
    """Hides the class of what it holds."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def sharded(module: nn.Module) -> nn.Module:
    """FSDP2, every submodule that holds weights by itself."""
    mesh = init_device_mesh("cpu", (1,))
    for child in reversed(list(module.modules())):
        if child is not module and any(True for _ in child.parameters(recurse=False)):
            fully_shard(child, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def sharded_at_once(module: nn.Module) -> nn.Module:
    """FSDP2, the whole module and each prior in it."""
    mesh = init_device_mesh("cpu", (1,))
    for child in module.modules():
        if hasattr(child, "quantiles"):
            fully_shard(child, mesh=mesh)
    return fully_shard(module, mesh=mesh)
