"""Coding tables that live in a model's state_dict, so that a checkpoint codes as it always did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssmctx.distributions.tables import CodingTables

__all__ = ["StoredTables"]


class StoredTables(nn.Module):
    """Coding tables as buffers. A later release that builds other tables still reads the files of this checkpoint.

    A checkpoint without them leaves those of the constructor.

    Args:
        tables: the tables of a new model.

    Examples:
        >>> from ssmctx.distributions import Gaussian
        >>> from ssmctx.entropy.stored_tables import StoredTables
        >>> stored = StoredTables(Gaussian().tables())
        >>> list(stored.state_dict()), stored.tables().fingerprint() == Gaussian().tables().fingerprint()
        (['cdfs', 'lengths', 'offsets'], True)
    """

    cdfs: Tensor
    lengths: Tensor
    offsets: Tensor

    def __init__(self, tables: CodingTables) -> None:
        super().__init__()
        used = np.arange(tables.cdfs.shape[1]) < tables.lengths[:, None]
        self.register_buffer("cdfs", torch.tensor(tables.cdfs[used]))  # rows one after the other, without padding
        self.register_buffer("lengths", torch.tensor(tables.lengths))
        self.register_buffer("offsets", torch.tensor(tables.offsets))
        self._made = PreparedTables()

    def tables(self) -> CodingTables:
        """The tables, checked and prepared for coding.

        Raises:
            ArgumentError: what was loaded is no coding table.
        """
        return self._made.of(self._make, self.cdfs, self.lengths, self.offsets)

    def _make(self) -> CodingTables:
        cdfs, lengths, offsets = (x.cpu().numpy() for x in (self.cdfs, self.lengths, self.offsets))
        return CodingTables.from_lists(np.split(cdfs, np.cumsum(lengths)[:-1]), lengths.tolist(), offsets.tolist())

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str], *rest: Any
    ) -> None:
        for name in ("cdfs", "lengths", "offsets"):
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(self, name, torch.empty_like(stored, device=self.cdfs.device))
        known = len(missing)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *rest)  # type: ignore[arg-type]
        del missing[known:]


class PreparedTables:
    """Tables made once for as long as the tensors that they are made of stay the same."""

    def __init__(self) -> None:
        self._key: tuple[tuple[Tensor, int], ...] = ()
        self._tables: CodingTables | None = None

    def of(self, make: Any, *sources: Tensor) -> CodingTables:
        """What `make()` gives, or gave for the very same sources."""
        key = tuple((source, source._version) for source in sources)
        same = len(key) == len(self._key) and all(
            a is b and m == n for (a, m), (b, n) in zip(key, self._key, strict=True)
        )
        if self._tables is None or not same:
            self._tables = make()
            self._key = key
        tables: CodingTables = self._tables
        return tables
