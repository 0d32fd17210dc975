"""The guard: a decoder whose scales drift by up to the band finds the encoder's rows; a larger drift is told."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import SLICES, M, entropy_model, latent

from ssmctx import ChannelSpatialContext
from ssmctx.distributions import ScaleGrid
from ssmctx.entropy.bitstream.checksums import Checksums, checksum
from ssmctx.entropy.bitstream.rice import pack_indices, unpack_indices
from ssmctx.entropy.guard import DEFAULT_BAND, Guard, check_band, guard_scales, guarded_rows
from ssmctx.errors import ArgumentError, CorruptStreamError, DecodeMismatchError

GRID = ScaleGrid()
BANDS = st.sampled_from([2.0**-24, 2.0**-18, DEFAULT_BAND, 2.0**-11, 0.0039])


def scales(seed: int, count: int) -> torch.Tensor:
    """Any scales, many of them on a border and a few steps of float32 beside it, and some not positive."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(8 * torch.rand(count, generator=generator) - 3)
    levels = torch.tensor(GRID.values(), dtype=torch.float64)
    borders = (levels[1:] * levels[:-1]).sqrt()[torch.randint(63, (count,), generator=generator)]
    beside = borders * (1 + 2e-7 * torch.randint(-40, 40, (count,), generator=generator))
    chosen = torch.where(torch.rand(count, generator=generator) < 0.2, beside.float(), spread)
    return torch.where(torch.rand(count, generator=generator) < 0.1, -chosen, chosen)


def drifted(scale: torch.Tensor, band: float, seed: int) -> torch.Tensor:
    """Every scale moved by the whole band, up or down as suits it least: half of them by chance, half to a border."""
    signs = torch.randint(0, 2, scale.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    up = GRID.index(scale * (1 + band)) != GRID.index(scale)
    signs = torch.where(torch.rand(scale.shape) < 0.5, signs, torch.where(up, 1, -1))
    return (scale.double() * (1 + signs * band)).float()


@given(seed=st.integers(0, 2**20), count=st.integers(1, 30000), band=BANDS)
def test_any_drift_within_the_band_finds_the_rows(seed, count, band):
    scale, band = scales(seed, count), check_band(band, GRID)
    rows, guard = guard_scales(scale, band, GRID)
    read = Guard.from_bytes(guard.to_bytes(count), count)
    cut = count // 3
    moved = drifted(scale, band, seed)
    found = [guarded_rows(moved[:cut], 0, read, GRID), guarded_rows(moved[cut:], cut, read, GRID)] if cut else []
    assert not found or np.array_equal(np.concatenate(found), rows.numpy())
    assert np.array_equal(guarded_rows(scale, 0, read, GRID), rows.numpy())


def test_without_the_list_such_drift_is_fatal():
    """The planted fault: the property above sees a list that is not followed, and shifts that are not."""
    scale = scales(0, 3000)
    rows, guard = guard_scales(scale, 0.0038, GRID)
    assert len(guard.indices)
    moved = drifted(scale, 0.0038, 0)
    unlisted = Guard(guard.band, guard.doublings, guard.shifts, guard.indices[:0], guard.upper[:0])
    unshifted = Guard(guard.band, guard.doublings, guard.shifts * 0 + 128, guard.indices, guard.upper)
    for faulty in (unlisted, unshifted, Guard.none()):
        assert not np.array_equal(guarded_rows(moved, 0, faulty, GRID), rows.numpy())


def test_shifts_cost_next_to_nothing():
    """A byte for a thousand elements or more, next to no list, and the rows of the nearest scales but for a few."""
    scale = torch.exp(6 * torch.rand(200_000) - 2)
    rows, guard = guard_scales(scale, DEFAULT_BAND, GRID)
    assert len(guard.to_bytes(len(scale))) < 140
    assert (rows != GRID.index(scale)).float().mean() < 0.1
    floor, guard = guard_scales(torch.full((200_000,), 0.05), DEFAULT_BAND, GRID)
    assert not floor.any()
    assert len(guard.to_bytes(len(floor))) < 16


GOLDEN = "00040303fa0400880900f80fdb"


def test_golden_bytes():
    indices, upper = np.array([0, 77, 78, 8999]), np.array([True, False, True, True])
    guard = Guard(2.0**-14, 3, np.array([3, 250], np.uint8), indices, upper)
    assert guard.to_bytes(9000).hex() == GOLDEN
    read = Guard.from_bytes(bytes.fromhex(GOLDEN), 9000)
    assert (read.band, read.doublings) == (2.0**-14, 3)
    assert [x.tolist() for x in (read.shifts, read.indices, read.upper)] == [[3, 250], indices.tolist(), upper.tolist()]


def test_golden_bytes_of_a_guard_that_lists_nothing():
    assert (Guard.none().to_bytes(9000), Guard.none(2.0**-14).to_bytes(9000).hex()) == (b"", "0004")
    for band in (0, 2.0**-14):
        read = Guard.from_bytes(Guard.none(band).to_bytes(9000), 9000)
        assert (read.band, len(read.shifts), len(read.indices)) == (band, 0, 0)


def test_golden_bytes_of_the_checksums():
    """That of z has a CRC of all else xored into it, the guard included."""
    sums = Checksums(7, (65535, 258))
    assert sums.to_bytes(bytes.fromhex(GOLDEN)).hex() == SUMS
    assert Checksums.from_bytes(bytes.fromhex(SUMS), bytes.fromhex(GOLDEN), 2) == sums
    assert Checksums.from_bytes(b"\0", b"", 2) is None
    with pytest.raises(CorruptStreamError, match="there is a guard but there are no checksums"):
        Checksums.from_bytes(b"\0", bytes.fromhex(GOLDEN), 2)


SUMS = "02a860ffff0201"


@pytest.mark.parametrize("sums", [Checksums(7, (65535, 258)), Checksums(7, (65535,))], ids=["each", "one"])
def test_every_flipped_bit_is_an_error_or_another_checksum_of_z(sums):
    guard = bytes.fromhex(GOLDEN)
    data = sums.to_bytes(guard)
    cases = [(data, flipped) for flipped in flips(guard)] + [(flipped, guard) for flipped in flips(data)]
    for changed, changed_guard in cases:
        try:
            Guard.from_bytes(changed_guard, 9000)
            read = Checksums.from_bytes(changed, changed_guard, 2)
        except CorruptStreamError:
            continue
        assert read.z != 7


@pytest.mark.parametrize("length", [0, 1, 2, 4, 6, 8])
def test_cut_checksums(length):
    with pytest.raises(CorruptStreamError, match=rf"checksums of 2 steps take 5 bytes or 7, got {length} bytes"):
        Checksums.from_bytes(bytes.fromhex(SUMS + "00")[:length], bytes.fromhex(GOLDEN), 2)


@pytest.mark.parametrize("doublings", [18, 63, 255])
def test_groups_have_at_most_17_doublings(doublings):
    """So that no group's size overflows."""
    changed = bytearray.fromhex(GOLDEN)
    changed[2] = doublings
    with pytest.raises(CorruptStreamError, match="the guard ends within its shifts: it was truncated or is damaged"):
        Guard.from_bytes(bytes(changed), 9000)
    nothing = np.zeros(0, np.int64)
    largest = Guard(2.0**-14, 17, np.array([5], np.uint8), nothing, nothing.astype(bool))
    assert Guard.from_bytes(largest.to_bytes(9000), 9000).doublings == 17


def flips(data: bytes) -> list[bytes]:
    whole, bits = int.from_bytes(data, "big"), range(8 * len(data))
    return [(whole ^ 1 << bit).to_bytes(len(data), "big") for bit in bits]


@given(
    indices=st.lists(st.integers(0, 5000), unique=True).map(sorted),
    total=st.integers(5001, 10**6),
    seed=st.integers(0, 9),
)
def test_indices_survive(indices, total, seed):
    marks = np.random.default_rng(seed).random(len(indices)) < 0.5
    data = pack_indices(np.array(indices, np.int64), marks, total)
    back, back_marks = unpack_indices(data, total)
    assert back.tolist() == indices
    assert np.array_equal(back_marks, marks)
    for length in range(len(data)):
        with pytest.raises(CorruptStreamError):
            unpack_indices(data[:length], total)


@given(data=st.binary(max_size=80), total=st.integers(1, 10**7))
def test_any_bytes_are_a_guard_or_a_typed_error(data, total):
    try:
        guard = Guard.from_bytes(data, total)
    except CorruptStreamError:
        return
    assert len(guard.indices) <= total
    assert not len(guard.indices) or 0 <= guard.indices[0] <= guard.indices[-1] < total


@given(data=st.binary(max_size=60), guard=st.binary(max_size=20), steps=st.integers(1, 20), right=st.booleans())
def test_any_bytes_are_checksums_or_a_typed_error(data, guard, steps, right):
    data = bytes([2]) + (data + bytes(2 * steps + 2))[: 2 * steps + 2] if right else data
    try:
        read = Checksums.from_bytes(data, guard, steps)
    except CorruptStreamError:
        return
    assert read is None or len(read.steps) in (1, steps)


@pytest.mark.parametrize("band", [-1e-9, 0.004, float("nan"), 1])
def test_a_band_too_wide(band):
    with pytest.raises(ArgumentError, match=r"guard_band must be a relative width of 0 to 0\.003906, got"):
        check_band(band, GRID)


def test_the_checksum_is_of_little_endian_symbols():
    assert checksum(np.array([1, -2, 300], np.int16)) == checksum(np.array([1, -2, 300], ">i2"))


# --- in the codec

MODEL = entropy_model()


class Drifting(ChannelSpatialContext):
    """Another machine: every scale is off, each by the whole `drift` or less, up or down."""

    drift = 0.0

    def forward(self, step, y_hat, side, state=None):
        mean, scale = super().forward(step, y_hat, side, state)
        towards = drifted(scale, self.drift, step)
        return mean * (1 + 1e-6), towards


def decode_with_drift(drift: float, coded):
    other = entropy_model()
    other.load_state_dict(MODEL.state_dict())
    other.context.__class__ = Drifting
    other.context.drift = drift
    return other.decompress(coded["strings"], coded["shape"])["y_hat"]


@pytest.mark.parametrize("seed", range(4))
def test_a_codec_decodes_through_drift_of_a_band_and_tells_a_hundred(seed):
    y = latent(seed, 1, M, 40, 30)
    coded = MODEL.compress(y)
    # means drift too and scales with them, by less than a hundredth of the band
    y_hat = decode_with_drift(0.9 * DEFAULT_BAND, coded)
    torch.testing.assert_close(y_hat, coded["y_hat"], rtol=1e-4, atol=1e-3)
    with pytest.raises(DecodeMismatchError, match=r"step \d, channels \d to \d decodes to other symbols .* guard_band"):
        decode_with_drift(100 * DEFAULT_BAND, coded)


@pytest.mark.parametrize("band", [DEFAULT_BAND, 0.0])
@pytest.mark.parametrize("size", [(5, 4), (12, 14)], ids=["one checksum", "one a step"])
def test_a_codec_tells_every_flipped_bit_of_checksums_and_guard(monkeypatch, band, size):
    monkeypatch.setattr(MODEL, "guard_band", band)
    coded = MODEL.compress(latent(0, 1, M, *size))
    y, z, [sums], [guard] = coded["strings"]
    assert len(sums) == (5 if size == (5, 4) else 3 + 2 * 2 * SLICES)
    cases = [(sums, flipped) for flipped in flips(guard)] + [(flipped, guard) for flipped in flips(sums)]
    for changed, changed_guard in cases:
        with pytest.raises(CorruptStreamError, match=r"guard|checksums"):
            MODEL.decompress([y, z, [changed], [changed_guard]], coded["shape"])


def test_what_does_not_fit_is_named():
    """The step, or y where one checksum serves all steps."""
    for size, count in (((12, 14), 2 * SLICES), ((5, 4), 1)):
        coded = MODEL.compress(latent(0, 1, M, *size))
        y, z, [sums], [guard] = coded["strings"]
        own = Checksums.from_bytes(sums, guard, 2 * SLICES)
        assert len(own.steps) == count
        for step in range(count):
            steps = [number ^ (index == step) for index, number in enumerate(own.steps)]
            first = 2 * (step // 2)
            where = "y" if count == 1 else f"step {step}, channels {first} to {first + 1}"
            with pytest.raises(DecodeMismatchError, match=f"^{where} decodes to other symbols"):
                MODEL.decompress([y, z, [Checksums(own.z, tuple(steps)).to_bytes(guard)], [guard]], coded["shape"])


def test_more_drift_than_the_band_at_the_last_border_stays_in_the_table():
    """Checksums tell of it; a row beyond the table would be another error."""
    grid = ScaleGrid()
    scale = torch.full((3000,), grid.borders()[-1] * (1 + 1e-6), dtype=torch.float64)
    _, guard = guard_scales(scale, DEFAULT_BAND, grid)
    guard = Guard(guard.band, 0, np.full(3, 128, np.uint8), np.arange(3000), np.ones(3000, bool))
    assert (guarded_rows(scale * 1.01, 0, guard, grid) == grid.levels - 1).all()


def test_a_guard_of_width_zero_still_tells():
    model = entropy_model()
    model.guard_band = 0.0
    y = latent(1, 1, M, 40, 30)
    coded = model.compress(y)
    assert coded["strings"][3] == [b""]
    assert len(coded["strings"][2][0]) == 1 + 2 * (2 * SLICES + 1)
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])
    with pytest.raises(DecodeMismatchError, match="step"):
        decode_with_drift(1e-3, coded)
