"""The coder and its tables: golden bytes, any symbol, any index."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmctx.entropy.coder import StreamDecoder, StreamEncoder
from ssmctx.entropy.gaussian import SCALE_LEVELS, gaussian_likelihood, gaussian_tables, scale_index, scale_levels
from ssmctx.errors import ArgumentError


def encode(symbols, indexes) -> bytes:
    encoder = StreamEncoder()
    encoder.encode(torch.tensor(symbols), torch.tensor(indexes), gaussian_tables())
    return encoder.finish()


def test_golden_bytes():
    symbols = [0, 1, -1, 2, -5, 0, 0, 3, -40, 700, -32767, 7, 0, -2, 1, 0]
    indexes = [0, 5, 10, 20, 30, 1, 2, 3, 40, 63, 63, 0, 33, 22, 11, 62]
    assert encode(symbols, indexes).hex() == GOLDEN


GOLDEN = "a8cf6a45aa2200001bef1edb64fcfbff343cffffa1cf8348"

pairs = st.lists(st.tuples(st.integers(-(2**15) + 1, 2**15 - 1), st.integers(0, SCALE_LEVELS - 1)), max_size=200)


@given(steps=st.lists(pairs, min_size=1, max_size=4))
def test_any_symbols_survive_step_by_step(steps):
    encoder = StreamEncoder()
    tensors = [torch.tensor(step, dtype=torch.int64).view(-1, 2) for step in steps]
    for step in tensors:
        encoder.encode(step[:, 0], step[:, 1], gaussian_tables())
    decoder = StreamDecoder(encoder.finish())
    for step in tensors:
        assert torch.equal(decoder.decode(step[:, 1], gaussian_tables()).long(), step[:, 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 32768.0])
def test_what_the_coder_cannot_hold_raises(value):
    with pytest.raises(ArgumentError, match=r"symbols of magnitude up to 32767, got (nan|inf|32768)"):
        encode([0.0, value], [0, 0])


def test_tables_sum_to_2_to_the_16_and_match_the_likelihood():
    tables = gaussian_tables()
    scales = scale_levels(torch.zeros((), dtype=torch.float64))
    assert len(tables.cdfs) == SCALE_LEVELS
    for scale, cdf, offset in zip(scales, tables.cdfs, tables.offsets, strict=True):
        frequency = torch.tensor(cdf).diff()
        assert cdf[0] == 0
        assert cdf[-1] == 2**16
        assert (frequency >= 1).all()
        symbols = torch.arange(len(frequency) - 1, dtype=torch.float64) + offset
        likelihood = gaussian_likelihood(symbols, scale)
        bits = -(likelihood * torch.log2(frequency[:-1] / 2**16)).sum()
        entropy = -(likelihood * torch.log2(likelihood)).sum()
        assert bits - entropy < 0.01 * entropy + 0.005


@given(st.floats(0.05, 400))
def test_the_index_is_the_nearest_scale_on_a_log_axis(scale):
    levels = scale_levels(torch.zeros((), dtype=torch.float64))
    distance = (levels / scale).log().abs()
    index = scale_index(torch.tensor(scale, dtype=torch.float64))
    torch.testing.assert_close(distance[index], distance.min())


def test_likelihoods_are_probabilities():
    residual = torch.arange(-3000.0, 3001.0)
    for scale in (0.11, 1.0, 37.0, 256.0):
        total = gaussian_likelihood(residual.double(), torch.tensor(scale).double()).sum()
        torch.testing.assert_close(total, torch.ones((), dtype=torch.float64), atol=1e-5, rtol=0)
