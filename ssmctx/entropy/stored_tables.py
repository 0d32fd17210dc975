"""Coding tables that live in a model's state_dict, so that a checkpoint codes as it always did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ssmctx.distributions.tables import CodingTables
from ssmctx.errors import ArgumentError, CheckpointError

__all__ = ["HeldTables", "StoredTables"]


T = TypeVar("T")
_KEY, _DEFAULT = "law", "gaussian"


class HeldTables(nn.Module):
    """Base of modules that hold coding tables: in the state dict, but safe from what happens to buffers.

    Weights are averaged, moved, narrowed, emptied and broadcast, and their buffers with them; a table that differs by
    one count decodes to garbage. So the tensors are plain attributes, on the CPU. Empty buffers bear their names, for
    libraries that look the names up. Tensors of any size load.
    """

    _held: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        self._prepared = PreparedTables()
        self._hold({name: torch.empty(0, dtype=torch.int32, device="cpu") for name in self._held})

    def _hold(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.inference_mode(False):  # what is made inside inference_mode must serve outside, too
            for name, tensor in tensors.items():
                self._buffers[name] = torch.empty(0, dtype=torch.int32, device="cpu")
                self.__dict__[name] = tensor.detach().cpu().clone()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: self.__dict__[name] for name in self._held})

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        found = {name: state_dict.get(prefix + name) for name in self._held}
        tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
        self._hold({name: tensor for name, tensor in tensors.items() if not tensor.is_meta})
        others = {**state_dict, **{prefix + name: self._buffers[name] for name in tensors}}
        super()._load_from_state_dict(others, prefix, *rest)


class StoredTables(HeldTables):
    """Coding tables in a state dict. A later release that builds other tables still reads the files of this checkpoint.

    A checkpoint without them leaves those of the constructor. One that was made with another distribution is rejected.

    Args:
        tables: the tables of a new model.
        distribution: name of the distribution that they are of; "gaussian" is not stored, as in old checkpoints.

    Examples:
        >>> from ssmctx.distributions import Gaussian
        >>> from ssmctx.entropy.stored_tables import StoredTables
        >>> stored = StoredTables(Gaussian().tables(), "gaussian")
        >>> list(stored.state_dict()), stored.tables().fingerprint() == Gaussian().tables().fingerprint()
        (['cdfs', 'lengths', 'offsets'], True)
    """

    _held = ("cdfs", "lengths", "offsets")
    cdfs: Tensor
    lengths: Tensor
    offsets: Tensor

    def __init__(self, tables: CodingTables, distribution: str) -> None:
        super().__init__()
        self.distribution = distribution
        self.store(tables)

    def store(self, tables: CodingTables) -> None:
        """Replace the tables."""
        used = np.arange(tables.cdfs.shape[1]) < tables.lengths[:, None]
        arrays = (tables.cdfs[used], tables.lengths, tables.offsets)  # rows one after the other, without padding
        self._hold({name: torch.from_numpy(array.copy()) for name, array in zip(self._held, arrays, strict=True)})

    def tables(self) -> CodingTables:
        """The tables, checked and prepared for coding.

        Raises:
            ArgumentError: what was loaded is no coding table.
        """
        return self._prepared.of(self._make, self.cdfs, self.lengths, self.offsets)

    def _make(self) -> CodingTables:
        cdfs, lengths, offsets = (x.numpy() for x in (self.cdfs, self.lengths, self.offsets))
        return CodingTables.from_lists(np.split(cdfs, np.cumsum(lengths)[:-1]), lengths.tolist(), offsets.tolist())

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.distribution != _DEFAULT:
            destination[prefix + _KEY] = torch.tensor(list(self.distribution.encode()), dtype=torch.uint8)

    def _load_from_state_dict(  # type: ignore[override]
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        name = state_dict.get(prefix + _KEY)
        stored = _DEFAULT if name is None else bytes(name.tolist()).decode()
        if prefix + self._held[0] in state_dict and stored != self.distribution:
            raise CheckpointError(
                f"the checkpoint was made with distribution {stored!r}, this model has {self.distribution!r}: make the "
                f"model with distribution={stored!r}"
            )
        known = len(missing)
        super()._load_from_state_dict(
            {name: value for name, value in state_dict.items() if name != prefix + _KEY},
            prefix, metadata, strict, missing, unexpected, errors,
        )  # fmt: skip
        del missing[known:]


class PreparedTables:
    """A value that is made again when the tensors that it is made of change."""

    def __init__(self) -> None:
        self._last: tuple[list[Tensor], Any] | None = None  # one attribute, for threads

    def of(self, make: Callable[[], T], *sources: Tensor) -> T:
        """What `make()` gives, or gave for the very same values.

        Raises:
            ArgumentError: a tensor does not hold integers.
        """
        # values, since tensors made in inference_mode have no version, and `.data` changes others without one
        tensors = [source.detach().cpu() for source in sources]
        last = self._last
        if last is None or not all(map(_same, tensors, last[0])):
            if narrowed := [tensor.dtype for tensor in tensors if tensor.is_floating_point()]:
                raise ArgumentError(
                    f"coding tables must be integers, got {narrowed[0]}: do not cast or average them in a state dict"
                )
            last = self._last = [tensor.clone() for tensor in tensors], make()
        made: T = last[1]
        return made


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
