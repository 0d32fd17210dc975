"""rANS and its tables: byte for byte CompressAI's, and no bytes at all that crash or hang the decoder."""

import copy
import os
import pickle
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmctx.distributions import Gaussian
from ssmctx.distributions.tables import CodingTables
from ssmctx.entropy.constriction_coder import ConstrictionCoder
from ssmctx.entropy.rans import RansCoder, RansEncoder
from ssmctx.entropy.rans import coder as rans
from ssmctx.entropy.rans import plain as rans_plain
from ssmctx.errors import ArgumentError, BackendUnavailableError, CorruptStreamError

HALF = CodingTables.from_lists([[0, 1 << 15, (1 << 16) - 1, 1 << 16]], [4], [-1])
SMALL = CodingTables.from_lists(
    [[0, 16384, 49152, 65535, 65536], [0, 1, 65536], [0, 65000, 65536]], [5, 3, 3], [-1, 7, -300]
)
SYMBOLS = np.array([0, 1, -1, 7, 8, -300, 300, -32768, 32767, 0, 0, 6], np.int16)
INDEXES = np.array([0, 0, 0, 1, 1, 2, 2, 0, 1, 0, 0, 1], np.uint8)
GOLDEN = "73bfe7fe29ed01000c815b9cd4ff8f001d483849"


def random_tables(rng, rows):
    """Rows of 3 to some thousand entries, from nearly flat to nearly all of the mass in one interval."""
    cdfs, offsets = [], []
    for _ in range(rows):
        size = int(rng.choice([1, 2, 5, 40, 300, 3000], p=[0.3, 0.2, 0.2, 0.2, 0.09, 0.01]))
        inner = np.unique(1 + (65535 * rng.random(size) ** rng.choice([1, 3, 9])).astype(np.int64))
        cdfs.append([0, *inner.tolist(), 65536])
        last = 32767 - (len(cdfs[-1]) - 3)
        offsets.append(
            int(rng.choice([-32768, last, np.clip(-size // 2, -32768, last), rng.integers(-32768, last + 1)]))
        )
    return CodingTables.from_lists(cdfs, [len(row) for row in cdfs], offsets)


def random_step(rng, tables, count):
    """Symbols within their rows, just outside of them and anywhere, and indexes."""
    rows = len(tables.lengths)
    indexes = rng.integers(0, rows, count).astype(np.uint8 if rows <= 256 else np.uint16)
    first, inside = tables.offsets[indexes].astype(np.int64), tables.lengths[indexes] - 2
    near = first + rng.integers(-2, inside + 3)
    within = first + (inside * rng.random(count) ** 2).astype(np.int64)
    kind = rng.random(count)
    symbols = np.where(kind < 0.6, within, np.where(kind < 0.9, near, rng.integers(-32768, 32768, count)))
    return symbols.clip(-32768, 32767).astype(np.int16), indexes, tables


@st.composite
def streams(draw, fewest=0):
    """Steps (symbols, indexes, tables), together at least so many symbols."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.sampled_from([1, 2, 64, 256, 257, 300]) | st.integers(1, 300))
    counts = draw(st.lists(st.integers(0, 60), min_size=1, max_size=4))
    counts[0] += max(0, fewest - sum(counts))
    return [random_step(rng, random_tables(rng, rows if i % 2 == 0 else 3), count) for i, count in enumerate(counts)]


def encoded(steps, coder=None):
    encoder = (coder or RansCoder()).encoder()
    for step in steps:
        encoder.encode(*step)
    return encoder.finish()


def decoded(stream, steps, coder=None):
    decoder = (coder or RansCoder()).decoder(stream)
    out = [decoder.decode(indexes, tables) for _, indexes, tables in steps]
    decoder.finish()
    return out


def survives(stream, steps, decode=decoded):
    """Whether the decoder gives back the symbols; a typed error counts as no."""
    try:
        out = decode(stream, steps)
    except CorruptStreamError:
        return False
    return all(np.array_equal(symbols, step[0]) for symbols, step in zip(out, steps, strict=True))


def lists(tables):
    return tables.cdfs.tolist(), tables.lengths.tolist(), tables.offsets.tolist()


def compressai_encoded(steps):
    from compressai.ans import BufferedRansEncoder

    encoder = BufferedRansEncoder()
    for symbols, indexes, tables in steps:
        encoder.encode_with_indexes(symbols.tolist(), indexes.tolist(), *lists(tables))
    return encoder.flush()


def compressai_decoded(stream, steps):
    from compressai.ans import RansDecoder

    decoder = RansDecoder()
    decoder.set_stream(stream)
    return [decoder.decode_stream(indexes.tolist(), *lists(tables)) for _, indexes, tables in steps]


def test_golden_bytes():
    # by hand: 2^31 / 2^15 is 2^16, shifted by 16 bits; then start 0 or 2^15
    assert encoded([(np.array([-1], np.int16), INDEXES[:1], HALF)]).hex() == "0000000001000000"
    assert encoded([(np.array([0], np.int16), INDEXES[:1], HALF)]).hex() == struct.pack("<Q", 0x1_0002_8002).hex()
    assert encoded([]).hex() == "0000008000000000"
    assert encoded([(SYMBOLS, INDEXES, SMALL)]).hex() == GOLDEN
    assert survives(bytes.fromhex(GOLDEN), [(SYMBOLS, INDEXES, SMALL)])


# CompressAI's flush overruns its buffer below four symbols
@settings(max_examples=60)
@given(streams(fewest=4))
def test_compressai_writes_and_reads_the_same_bytes(steps):
    stream = encoded(steps)
    assert stream == compressai_encoded(steps)
    assert survives(stream, steps, compressai_decoded)
    assert survives(stream, steps)


@pytest.mark.parametrize("scale", [0, 20, 40, 63])
def test_compressai_agrees_on_the_gaussian_tables(scale):
    tables = Gaussian().tables()
    tables = CodingTables.from_lists(tables.cdfs, tables.lengths, tables.offsets)
    rng = np.random.default_rng(scale)
    symbols = np.round(rng.normal(0, 0.11 * 2328 ** (scale / 63), 3000)).astype(np.int16)
    steps = [(symbols, np.full(3000, scale, np.uint8), tables)]
    assert encoded(steps) == compressai_encoded(steps)
    assert survives(encoded(steps), steps)


@given(streams(), st.integers(1, 50))
def test_any_symbols_survive_however_they_are_split(steps, size):
    decoder = RansCoder().decoder(encoded(steps))
    for symbols, indexes, tables in steps:
        parts = [decoder.decode(indexes[i : i + size], tables) for i in range(0, len(indexes) + 1, size)]
        assert np.concatenate(parts).dtype == np.int16
        assert np.array_equal(np.concatenate(parts), symbols)
    decoder.finish()


@pytest.fixture(scope="module")
def plain():
    """Runs something with the coder in plain Python."""

    def run(work, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rans, "_kernels", lambda: rans_plain)
            return work(*arguments)

    return run


def test_the_plain_coder_writes_and_reads_the_same_bytes(plain):
    @given(streams())
    def check(steps):
        stream = encoded(steps)
        assert plain(encoded, steps) == stream
        assert plain(survives, stream, steps)

    check()
    assert plain(encoded, [(SYMBOLS, INDEXES, SMALL)]).hex() == GOLDEN


def outcome(stream, steps):
    try:
        return [symbols.tolist() for symbols in decoded(stream, steps)]
    except CorruptStreamError as error:
        return str(error)


def test_the_plain_decoder_refuses_the_same_streams_for_the_same_reasons(plain):
    @given(streams(fewest=1), st.binary(max_size=400), st.integers(0, 2**32 - 1))
    def check(steps, data, seed):
        stream = encoded(steps)
        damaged = bytearray(stream)
        bit = seed % (8 * len(stream))
        damaged[bit // 8] ^= 1 << bit % 8
        for other in (stream[: seed % len(stream)], bytes(damaged), struct.pack("<Q", 1 << 31) + data):
            assert plain(outcome, other, steps) == outcome(other, steps)

    check()
    for values in ((6, 1), (1, 0), (2, 5, 0), (1, 8)):
        assert plain(outcome, groups(*values), ESCAPE) == outcome(groups(*values), ESCAPE)


WITHOUT_COMPILER = """
import logging, sys
import numpy as np, torch
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
if "missing" in sys.argv:
    sys.modules["numba"] = None
from ssmctx import VSSBlock, backends
from ssmctx.entropy.rans import RansCoder
from ssmctx.distributions.tables import CodingTables
from ssmctx.errors import BackendUnavailableError
backends()
block, x = VSSBlock(8, d_state=3), torch.randn(1, 8, 5, 6)
named = VSSBlock(8, d_state=3, scan_backend="torch")
named.load_state_dict(block.state_dict())
assert torch.equal(block(x), named(x))
try:
    VSSBlock(8, d_state=3, scan_backend="cpu")(x)
except BackendUnavailableError as error:
    print("refused:", error)
tables = CodingTables.from_lists(
    [[0, 16384, 49152, 65535, 65536], [0, 1, 65536], [0, 65000, 65536]], [5, 3, 3], [-1, 7, -300]
)
symbols = np.array([0, 1, -1, 7, 8, -300, 300, -32768, 32767, 0, 0, 6], np.int16)
indexes = np.array([0, 0, 0, 1, 1, 2, 2, 0, 1, 0, 0, 1], np.uint8)
for _ in range(2):
    encoder = RansCoder().encoder()
    encoder.encode(symbols, indexes, tables)
    stream = encoder.finish()
    decoder = RansCoder().decoder(stream)
    assert np.array_equal(decoder.decode(indexes, tables), symbols)
    decoder.finish()
print("stream:", stream.hex())
"""


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("switched off", "numba's compiler is switched off: unset NUMBA_DISABLE_JIT"),
        ("missing", "numba is not installed: pip install numba"),
        ("broken", "numba cannot be imported (ImportError('Numba needs NumPy 1.0 or less')): pip install --force-re"),
    ],
)
def test_without_a_compiler_the_coder_is_slow_and_right(how, reason, tmp_path):
    environment = dict(os.environ)
    if how == "switched off":
        environment["NUMBA_DISABLE_JIT"] = "1"
    if how == "broken":
        (tmp_path / "numba.py").write_text('raise ImportError("Numba needs NumPy 1.0 or less")')
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, [environment.get("PYTHONPATH")])])
    run = [sys.executable, "-c", WITHOUT_COMPILER, how]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith(f"cpu        no         {reason}") for line in lines)
    assert any(line.startswith(f"refused: scan backend 'cpu' cannot be used: {reason}") for line in lines)
    warnings = [line for line in lines if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"WARNING the rANS coder runs uncompiled, about a hundred times slower: {reason}")
    assert lines[-1] == f"stream: {GOLDEN}"


def test_the_longest_symbols_fit_the_buffer():
    # 16 bits of frequency 1 and 24 of groups, at every possible state
    tables = CodingTables.from_lists([[0, 65535, 65536]], [3], [-32768])
    steps = [(np.full(n, 32767, np.int16), np.zeros(n, np.uint8), tables) for n in range(1, 50)]
    for step in steps:
        assert survives(encoded([step]), [step])
    assert len(encoded(steps)) == pytest.approx(8 + 5 * sum(range(1, 50)), abs=8)


def test_the_reciprocals_divide_exactly():
    cdfs = np.zeros((65535, 3), np.int32)
    cdfs[:, 1], cdfs[:, 2] = np.arange(1, 65536), 65536
    divisors = CodingTables.from_lists(cdfs, [3] * 65535, [0] * 65535).kernel_arrays.divisors[::2]
    for frequency, (reciprocal, packed) in enumerate(divisors.tolist(), 1):
        assert packed >> 16 & 0xFFFF == frequency
        multiple = frequency * (frequency << 30 | 12345)
        for x in (frequency << 15, (frequency << 47) - 1, multiple, multiple - 1):
            assert (2 * x * reciprocal >> 64) >> (packed >> 32) == x // frequency


# What is sure: a cut always raises; other damage gives an error or symbols of which the stream is the true encoding.
# Whether those are the symbols that were meant only a checksum can tell.
@given(streams(fewest=1))
def test_every_cut_raises(steps):
    stream = encoded(steps)
    for length in range(len(stream)):
        with pytest.raises(CorruptStreamError):
            decoded(stream[:length], steps)
    with pytest.raises(CorruptStreamError, match=r"no words left, got 2147483648 and 1"):
        decoded(stream + bytes(4), steps)


def refused_or_true(stream, steps):
    try:
        symbols = decoded(stream, steps)
    except CorruptStreamError:
        return False
    again = [(new, indexes, tables) for new, (_, indexes, tables) in zip(symbols, steps, strict=True)]
    assert encoded(again) == stream
    return True


@given(streams(fewest=1), st.integers(0, 2**32 - 1))
def test_flipped_bits_raise_or_give_other_symbols(steps, seed):
    stream = encoded(steps)
    for bit in np.random.default_rng(seed).permutation(8 * len(stream))[:200].tolist():
        changed = bytearray(stream)
        changed[bit // 8] ^= 1 << bit % 8
        refused_or_true(bytes(changed), steps)
        assert not survives(bytes(changed), steps)


@given(streams(fewest=1), st.binary(max_size=400))
def test_any_bytes_are_refused_or_decoded(steps, data):
    data += bytes(-len(data) % 4)
    refused_or_true(data, steps)
    refused_or_true(struct.pack("<Q", 1 << 31) + data, steps)
    refused_or_true(struct.pack("<Q", (1 << 63) - 1) + data, steps)


def test_damage_that_only_a_checksum_can_see():
    steps = [(np.array([0], np.int16), INDEXES[:1], HALF)]
    other = encoded([(np.array([-1], np.int16), INDEXES[:1], HALF)])
    assert refused_or_true(other, steps)
    assert not survives(other, steps)


def test_a_wrong_decoder_would_be_caught():
    rng = np.random.default_rng(1)
    steps = [random_step(rng, random_tables(rng, 40), 2000)]
    stream = encoded(steps)
    ((symbols, indexes, tables),) = steps
    assert survives(stream, steps)

    # one boundary of one row moved by one
    cdfs = tables.cdfs.copy()
    row = int(tables.lengths.argmax())
    index = 1 + int(np.flatnonzero(np.diff(cdfs[row, 1 : tables.lengths[row]]) > 1)[0])
    cdfs[row, index] += 1
    assert not survives(stream, [(symbols, indexes, CodingTables(cdfs, tables.lengths, tables.offsets))])

    # start tables taken at their word even where another interval begins within the same entry
    careless = copy.copy(tables)
    starts = careless.kernel_arrays.starts.astype(np.int64)
    begin, end = starts & 0xFFFF, (starts & 0xFFFF) + (starts >> 16 & 0xFFFF)
    reach = np.arange(1, 129) * 512
    shared = end < reach
    assert 0 < shared.mean() < 1
    starts = np.where(shared, begin | (reach - begin) << 16, starts).astype(np.uint32)
    careless.__dict__["kernel_arrays"] = careless.kernel_arrays._replace(starts=starts)
    assert not survives(stream, [(symbols, indexes, careless)])

    # symbols lost between two steps
    with pytest.raises(CorruptStreamError, match="it is damaged, or the tables differ"):
        decoded(stream, [(symbols[:-1], indexes[:-1], tables)])


ESCAPE = [(np.array([5], np.int16), INDEXES[:1], HALF)]


def groups(*values):
    """A stream of one escape of `HALF`, followed by these groups."""
    x = 1 << 31
    for value in reversed(values):
        x = x << 4 | value
    return ((x << 16) + 65535).to_bytes(8, "little")


@pytest.mark.parametrize("values", [(6, 1), (15, 1), (1, 0), (2, 5, 0)])
def test_what_no_encoder_writes_after_an_escape_raises(values):
    with pytest.raises(CorruptStreamError, match="an escape to no 16-bit symbol"):
        decoded(groups(*values), ESCAPE)


def test_an_escape_beyond_16_bits_raises():
    assert decoded(groups(1, 8), ESCAPE)[0].tolist() == [5]  # the row ends with 0; 2 k for 1 + k
    top = CodingTables.from_lists([[0, 1 << 15, (1 << 16) - 1, 1 << 16]], [4], [32766])
    for value in (0, 2, 14):
        with pytest.raises(CorruptStreamError, match="an escape to no 16-bit symbol"):
            decoded(groups(1, value) if value else groups(0), [(ESCAPE[0][0], INDEXES[:1], top)])


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "8 bytes or more, a multiple of 4; got 0 bytes"),
        (bytes(7), "got 7 bytes: truncated, or not a rANS stream"),
        (bytes(9), "got 9 bytes"),
        (bytearray(8), "got bytearray"),
        (bytes(8), r"starts with a state of 2\^31 to 2\^63, got 0"),
        (struct.pack("<Q", (1 << 31) - 1), "got 2147483647"),
        (struct.pack("<Q", 1 << 63), "got 9223372036854775808"),
    ],
)
def test_streams_that_no_encoder_wrote_raise(stream, message):
    with pytest.raises(CorruptStreamError, match=message):
        RansCoder().decoder(stream)


def test_a_decoder_that_raised_is_where_it_was():
    steps = [(SYMBOLS, INDEXES, SMALL)]
    decoder = RansCoder().decoder(encoded(steps))
    with pytest.raises(CorruptStreamError, match="ends before its symbols do"):
        decoder.decode(np.tile(INDEXES, 20), SMALL)
    assert np.array_equal(decoder.decode(INDEXES, SMALL), SYMBOLS)
    decoder.finish()


@pytest.mark.parametrize(
    ("symbols", "indexes", "tables", "message"),
    [
        (SYMBOLS.astype(np.int32), INDEXES, SMALL, "symbols must be a 1-D array of int16, got a 1-D array of int32"),
        (SYMBOLS.tolist(), INDEXES, SMALL, "symbols must be a 1-D array of int16, got list"),
        (SYMBOLS[None], INDEXES, SMALL, "symbols must be .* got a 2-D array of int16"),
        (SYMBOLS, INDEXES[:-1], SMALL, "one index per symbol is needed, got 12 symbols and 11 indexes"),
        (SYMBOLS, INDEXES.astype(np.int64), SMALL, "indexes must be a 1-D array of uint8 or uint16, got .* int64"),
        (SYMBOLS, INDEXES.reshape(3, 4), SMALL, "indexes must be .* got a 2-D array of uint8"),
        (SYMBOLS, INDEXES + np.uint8(1), SMALL, "the tables have 3 rows, got the index 3"),
        (SYMBOLS, INDEXES, Gaussian().tables, "tables must be CodingTables, got method"),
    ],
)
def test_arguments(symbols, indexes, tables, message):
    encoder = RansCoder().encoder()
    with pytest.raises(ArgumentError, match=message):
        encoder.encode(symbols, indexes, tables)
    assert encoder.finish() == RansEncoder().finish()
    if not message.startswith(("symbols", "one index")):
        with pytest.raises(ArgumentError, match=message):
            RansCoder().decoder(encoded([])).decode(indexes, tables)


def test_the_encoder_keeps_what_it_was_given():
    symbols, indexes = np.repeat(SYMBOLS, 2)[::2], np.repeat(INDEXES, 2)[::2]  # not contiguous
    encoder = RansCoder().encoder()
    encoder.encode(symbols, indexes, SMALL)
    symbols[:], indexes[:] = 0, 0
    assert encoder.finish().hex() == encoder.finish().hex() == GOLDEN


def test_two_threads_at_once():
    rng = np.random.default_rng(2)
    jobs = [[random_step(rng, random_tables(rng, 30), 20000)] for _ in range(8)]
    alone = [encoded(steps) for steps in jobs]
    fresh = [[(symbols, indexes, copy.copy(tables)) for symbols, indexes, tables in steps] for steps in jobs]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(encoded, fresh)) == alone
        assert all(pool.map(survives, alone, fresh))


ROW = [0, 9, 65536]


@pytest.mark.parametrize(
    ("cdfs", "lengths", "offsets", "message"),
    [
        ([[0, 65536]], [2], [0], r"must be 3 \(one symbol and the escape\) to 2 .*; row 0 has 2"),
        ([ROW, [1, 9, 65536]], [3, 3], [0, 0], "must start at 0; row 1 has 1"),
        ([[0, 9, 65535]], [3], [0], "must end at 65536; row 0 has 65535"),
        ([ROW, [0, 9, 9, 65536]], [3, 4], [0, 0], "must increase strictly; row 1 has a step of 0"),
        ([ROW, [0, 70000, 9, 65536]], [3, 4], [0, 0], "must increase strictly; row 1 has a step of -69991"),
        ([ROW], [3], [-32769], r"must lie within -32768 ... 32767; row 0 has -32769"),
        ([[0, 9, 10, 65536]], [4], [32767], r"must lie within -32768 ... 32767; row 0 has 32768"),
        ([ROW], [4], [0], "must have the entries that its length says; row 0 has 3"),
        ([ROW, ROW], [3], [0], "as many rows as lengths are needed, got 2 rows and 1 lengths"),
        ([ROW], [3], [0, 0], "the same 1 to 65536 rows, got 1, 1 and 2"),
        ([], [], [], "the same 1 to 65536 rows, got 0, 0 and 0"),
        ([[0, 0.5, 65536]], [3], [0], "row 0 of cdfs must be a row of integers, got a 1-D array of float64"),
        ([[0, 2**31, 65536]], [3], [0], "row 0 of cdfs must be 32-bit, got 0 ... 2147483648"),
        ([ROW], [0], [0], "must be 3 .*; row 0 has 0"),
    ],
)
def test_tables_that_cannot_be(cdfs, lengths, offsets, message):
    with pytest.raises(ArgumentError, match=message):
        CodingTables.from_lists(cdfs, lengths, offsets)


def test_at_most_65536_rows():
    rows = np.tile(np.array(ROW, np.int32), (65537, 1))
    lengths, offsets = np.full(65537, 3, np.int32), np.zeros(65537, np.int32)
    assert len(CodingTables(rows[1:], lengths[1:], offsets[1:]).cdfs) == 65536
    with pytest.raises(ArgumentError, match="the same 1 to 65536 rows, got 65537, 65537 and 65537"):
        CodingTables(rows, lengths, offsets)


def test_tables_take_int32_arrays_only_and_keep_their_own():
    cdfs, lengths, offsets = np.array([ROW], np.int32), np.array([3], np.int32), np.array([0], np.int32)
    tables = CodingTables(cdfs, lengths, offsets)
    with pytest.raises(ArgumentError, match="cdfs must be a 2-D int32 array, got a 2-D array of int64"):
        CodingTables(cdfs.astype(np.int64), lengths, offsets)
    with pytest.raises(ArgumentError, match="offsets must be a 1-D int32 array, got list"):
        CodingTables(cdfs, lengths, [0])
    cdfs[:] = 5
    for same in (tables, copy.deepcopy(tables), pickle.loads(pickle.dumps(tables))):
        assert same.cdfs.tolist() == [ROW]
        with pytest.raises(ValueError, match="read-only"):
            same.cdfs[0, 0] = 1


def test_the_fingerprint_tells_tables_apart_and_not_their_padding():
    wide = np.zeros((3, 9), np.int32)
    wide[:, :5] = SMALL.cdfs
    assert CodingTables(wide, SMALL.lengths, SMALL.offsets).fingerprint() == SMALL.fingerprint()
    assert len(SMALL.fingerprint()) == 8
    assert len({t.fingerprint() for t in (SMALL, HALF, CodingTables(wide, SMALL.lengths, SMALL.offsets + 1))}) == 3


@settings(max_examples=10)
@given(streams(fewest=1), st.integers(1, 50))
def test_constriction_codes_the_same_symbols(steps, size):
    pytest.importorskip("constriction")
    coder = ConstrictionCoder()
    stream = encoded(steps, coder)
    assert survives(stream, steps, lambda stream, steps: decoded(stream, steps, coder))
    split = [
        (symbols[i : i + size], indexes[i : i + size], tables)
        for symbols, indexes, tables in steps
        for i in range(0, len(indexes), size)
    ]
    assert survives(stream, split, lambda stream, steps: decoded(stream, steps, coder))
    for length in range(len(stream)):
        with pytest.raises(CorruptStreamError, match="constriction"):
            decoded(stream[:length], steps, coder)
    for bit in range(0, 8 * len(stream), 7):
        changed = bytearray(stream)
        changed[bit // 8] ^= 1 << bit % 8
        survives(bytes(changed), steps, lambda stream, steps: decoded(stream, steps, coder))


def test_without_constriction(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(BackendUnavailableError, match="constriction is not installed: pip install constriction"):
        ConstrictionCoder()
