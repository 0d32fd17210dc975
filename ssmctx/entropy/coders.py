"""Three protocols of an entropy coder, so that other coders can be registered."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssmctx.distributions.tables import CodingTables

__all__ = ["Coder", "StreamDecoder", "StreamEncoder"]


class StreamEncoder(Protocol):
    """Encodes symbols in coding order to one stream."""

    def encode(self, symbols: NDArray[np.int16], indexes: NDArray[Any], tables: CodingTables) -> None:
        """Append symbols, each with the table row that its index names.

        A symbol outside its row is coded too: every 16-bit number is.

        Args:
            symbols: (n,) int16, in coding order.
            indexes: the table row of each symbol, (n,) uint8 or uint16.
            tables: whose rows the indexes name.

        Raises:
            ArgumentError: another dtype or shape, or an index without a row; nothing is appended.
        """
        ...

    def finish(self) -> bytes:
        """The stream of everything appended. A function of the arguments alone: the same on every machine."""
        ...


class StreamDecoder(Protocol):
    """Decodes the symbols of one stream in the order in which they were encoded."""

    def decode(self, indexes: NDArray[Any], tables: CodingTables) -> NDArray[np.int16]:
        """The next symbols, one for each index.

        The indexes and tables have to be those of the encoder, element by element; how many are asked for at a time
        is free. Whatever the stream holds, this ends, in time bounded by the number of indexes.

        Args:
            indexes: the table row of each symbol, (n,) uint8 or uint16.
            tables: whose rows the indexes name.

        Returns:
            The symbols, (n,) int16.

        Raises:
            ArgumentError: indexes have another dtype or shape, or one has no row.
            CorruptStreamError: the stream is damaged.
        """
        ...

    def finish(self) -> None:
        """Check that nothing is left of the stream.

        Raises:
            CorruptStreamError: it does not end here.
        """
        ...


class Coder(Protocol):
    """Makes encoders and decoders of one format.

    Attributes:
        name: of the format, in fingerprints and in the registry.

    Examples:
        >>> import numpy as np
        >>> from ssmctx.entropy.coders import Coder
        >>> from ssmctx.entropy.rans import RansCoder
        >>> coder: Coder = RansCoder()
        >>> coder.name, coder.encoder().finish().hex()
        ('rans', '0000008000000000')
    """

    name: str

    def encoder(self) -> StreamEncoder:
        """A new encoder."""
        ...

    def decoder(self, stream: bytes) -> StreamDecoder:
        """A decoder of one stream.

        Raises:
            CorruptStreamError: no encoder of this format can have written it.
        """
        ...
