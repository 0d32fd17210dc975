"""The rANS coder beside its peers, in one run on one core: nanoseconds a symbol, and ratios to CompressAI.

    python benchmarks/coder.py
    python benchmarks/coder.py --json benchmarks/results/coder.json

Symbols are rounded Gaussians of many scales, coded with the library's 64 tables. Nothing is timed before our bytes
equal CompressAI's and every contender has given back every symbol.
The symbols come in ten steps, as those of an image do: one stream of ours, ten of CompressAI's `GaussianConditional`,
which is what its latent codecs call, tensors in and tensors out. "times" is the speed in units of that.
Other peers: `compressai.ans` alone, its lists made beforehand, in one piece; and constriction (pip install
constriction), symbols in order and, its best case, sorted by index beforehand.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from measure import machine, seconds
from numpy.typing import NDArray

from ssmctx.distributions import Gaussian
from ssmctx.distributions.tables import CodingTables
from ssmctx.entropy.coders import Coder
from ssmctx.entropy.constriction_coder import ConstrictionCoder
from ssmctx.entropy.rans import RansCoder
from ssmctx.files import write_whole

COUNT = 400_000
STEPS = 10
FEWER = 40_000  # what constriction gets in order, one call a run of equal indexes
RATES = {"low rate": (-1.5, 1.0), "middle rate": (-0.5, 1.0), "high rate": (1.0, 1.5)}
"""Mean and spread of the logarithm of the scales."""

Symbols = NDArray[np.int16]
Indexes = NDArray[np.uint8]
Contender = tuple[Callable[[], object], Callable[[], object], int]
"""How to encode, how to decode, and how many symbols that is."""


def draw(mean: float, spread: float) -> tuple[Symbols, Indexes]:
    """Symbols and indexes; each 5000th symbol is far outside its table."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.exp(mean + spread * torch.randn(COUNT, generator=generator)).clamp(0.11, 256)
    symbols = torch.round(scales * torch.randn(COUNT, generator=generator))
    symbols[::5000] += 4000
    return symbols.numpy().astype(np.int16), Gaussian().rows(scales).numpy().astype(np.uint8)


def with_coder(coder: Coder, symbols: Symbols, indexes: Indexes, tables: CodingTables) -> Contender:
    """One of the library's coders; checked first."""

    def encode() -> bytes:
        encoder = coder.encoder()
        for part, rows in zip(np.split(symbols, STEPS), np.split(indexes, STEPS), strict=True):
            encoder.encode(part, rows, tables)
        return encoder.finish()

    stream = encode()

    def decode() -> Symbols:
        decoder = coder.decoder(stream)
        parts = [decoder.decode(rows, tables) for rows in np.split(indexes, STEPS)]
        decoder.finish()
        return np.concatenate(parts)

    check(np.array_equal(decode(), symbols), f"{coder.name} does not give back its symbols")
    return encode, decode, len(symbols)


def with_compressai(symbols: Symbols, indexes: Indexes, tables: CodingTables) -> tuple[Contender, Contender, bytes]:
    """CompressAI's coder with lists ready, its entropy model with tensors at both ends, and their stream."""
    from compressai.ans import BufferedRansEncoder, RansDecoder
    from compressai.entropy_models import GaussianConditional

    # without their padding, which is kinder than what its entropy model hands over
    rows = [row[:length] for row, length in zip(tables.cdfs.tolist(), tables.lengths, strict=True)]
    lists = (rows, tables.lengths.tolist(), tables.offsets.tolist())
    symbol_list, index_list = symbols.tolist(), indexes.tolist()

    def encode() -> bytes:
        encoder = BufferedRansEncoder()
        encoder.encode_with_indexes(symbol_list, index_list, *lists)
        return encoder.flush()

    stream = encode()

    def decode() -> list[int]:
        decoder = RansDecoder()
        decoder.set_stream(stream)
        return decoder.decode_stream(index_list, *lists)

    check(decode() == symbol_list, "CompressAI's coder does not give back its symbols")
    model = GaussianConditional(None)
    model._quantized_cdf, model._cdf_length, model._offset = (
        torch.tensor(array) for array in (tables.cdfs, tables.lengths, tables.offsets)
    )
    values, rows_of = torch.from_numpy(symbols)[None].float(), torch.from_numpy(indexes)[None].int()
    check(model.compress(values, rows_of) == [stream], "CompressAI's entropy model writes other bytes")
    parts, part_rows = values.chunk(STEPS, 1), rows_of.chunk(STEPS, 1)

    def compress() -> list[list[bytes]]:
        return [model.compress(part, rows) for part, rows in zip(parts, part_rows, strict=True)]

    streams = compress()

    def decompress() -> torch.Tensor:
        return torch.cat([model.decompress(s, rows) for s, rows in zip(streams, part_rows, strict=True)], 1)

    check(torch.equal(decompress(), values), "its entropy model does not give back its symbols")
    inside = (compress, decompress, len(symbols))
    return (encode, decode, len(symbols)), inside, stream


def compare(mean: float, spread: float, rounds: int) -> dict[str, object]:
    """Check, then time, every contender on one draw."""
    tables = Gaussian().tables()
    symbols, indexes = draw(mean, spread)
    ours = with_coder(RansCoder(), symbols, indexes, tables)
    alone, inside, stream = with_compressai(symbols, indexes, tables)
    check(ours[0]() == stream, "our bytes are not CompressAI's")
    contenders = {"ssmctx rans": ours, "compressai, coder alone": alone, "compressai, its model": inside}
    if importlib.util.find_spec("constriction"):
        order = np.argsort(indexes, kind="stable")
        coder = ConstrictionCoder()
        contenders["constriction, in order"] = with_coder(coder, symbols[:FEWER], indexes[:FEWER], tables)
        contenders["constriction, sorted"] = with_coder(coder, symbols[order], indexes[order], tables)
    encode = seconds({name: run for name, (run, _, _) in contenders.items()}, rounds, "cpu")
    decode = seconds({name: run for name, (_, run, _) in contenders.items()}, rounds, "cpu")
    base = "compressai, its model"
    rows = [
        {
            "name": name,
            "encode_ns": 1e9 * encode[name] / count,
            "decode_ns": 1e9 * decode[name] / count,
            "encode_ratio": encode[base] / COUNT / (encode[name] / count),
            "decode_ratio": decode[base] / COUNT / (decode[name] / count),
        }
        for name, (_, _, count) in contenders.items()
    ]
    return {"bits_per_symbol": 8 * len(stream) / COUNT, "rows": rows}


def check(good: bool, message: str) -> None:
    """Exit if a result is wrong, before timing it."""
    if not good:
        raise SystemExit(f"not timed: {message}")


def show(title: str, result: dict[str, object]) -> None:
    """Print one comparison as a table."""
    print(f"\n{title}: {result['bits_per_symbol']:.2f} bits per symbol")
    print(f"{'':26}{'encode ns':>10}{'times':>8}{'decode ns':>11}{'times':>8}")
    for row in result["rows"]:
        print(
            f"{row['name']:26}{row['encode_ns']:>10.1f}{row['encode_ratio']:>8.2f}"
            f"{row['decode_ns']:>11.1f}{row['decode_ratio']:>8.2f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds; medians are shown")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    versions = {
        name: metadata.version(name) for name in ("compressai", "constriction") if importlib.util.find_spec(name)
    }
    report: dict[str, object] = {"machine": machine() | {"peers": versions}, "symbols": COUNT}
    print(json.dumps(report["machine"]))
    for title, rate in RATES.items():
        report[title] = compare(*rate, options.rounds)
        show(title, report[title])
    if options.json:
        write_whole(options.json, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
