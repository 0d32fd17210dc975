"""The Gaussian model and its tables: the same integers everywhere, CompressAI's integers, and the right bits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmctx.distributions import Gaussian, ScaleGrid
from ssmctx.distributions.quantise import quantise


def test_golden_tables():
    """A change here makes every file unreadable whose model did not store its tables."""
    tables = Gaussian().tables()
    assert tables.fingerprint().hex() == "46e54a158d254104"
    assert tables.cdfs[10, : tables.lengths[10]].tolist() == GOLDEN_ROW
    assert [value.hex() for value in ScaleGrid().values()[:3]] == GOLDEN_LEVELS


GOLDEN_ROW = [0, 1, 2, 6036, 59499, 65533, 65534, 65535, 65536]
GOLDEN_LEVELS = ["0x1.c28f5c28f5c29p-4", "0x1.fd8f2837ff12bp-4", "0x1.20245ef9396dep-3"]


def test_tables_are_those_of_compressai():
    from compressai.entropy_models import GaussianConditional

    theirs = GaussianConditional(list(ScaleGrid().values()))
    theirs.update()
    ours = Gaussian().tables()
    assert theirs.cdf_length.tolist() == ours.lengths.tolist()
    assert theirs.offset.tolist() == ours.offsets.tolist()
    # they add up float32 masses, and so differ by a count here and there
    assert abs(theirs.quantized_cdf.numpy() - ours.cdfs).max() <= 2


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=60).filter(lambda row: sum(row) > 0.01))
def test_quantising_is_that_of_compressai(row):
    from compressai._CXX import pmf_to_quantized_cdf

    pmf = (np.array(row) / sum(row)).astype(np.float32)
    assert quantise(pmf).tolist() == list(pmf_to_quantized_cdf(pmf.tolist(), 16))


def test_tables_match_the_likelihood():
    tables = Gaussian().tables()
    scales = ScaleGrid().tensor(torch.zeros((), dtype=torch.float64))
    assert len(tables.cdfs) == ScaleGrid().levels
    for scale, cdf, length, offset in zip(scales, tables.cdfs, tables.lengths, tables.offsets, strict=True):
        frequency = torch.tensor(cdf[:length]).diff()
        symbols = torch.arange(length - 2, dtype=torch.float64) + offset
        likelihood = Gaussian().likelihood(symbols, scale)
        bits = -(likelihood * torch.log2(frequency[:-1] / 2**16)).sum()
        entropy = -(likelihood * torch.log2(likelihood)).sum()
        assert bits - entropy < 0.01 * entropy + 0.005


@given(st.floats(0.05, 400))
def test_the_index_is_the_nearest_scale_on_a_log_axis(scale):
    levels = ScaleGrid().tensor(torch.zeros((), dtype=torch.float64))
    distance = (levels / scale).log().abs()
    index = ScaleGrid().index(torch.tensor(scale, dtype=torch.float64))
    torch.testing.assert_close(distance[index], distance.min())


@pytest.mark.parametrize("scale", [0.11, 1.0, 37.0, 256.0])
def test_likelihoods_are_probabilities(scale):
    residual = torch.arange(-3000.0, 3001.0)
    total = Gaussian().likelihood(residual.double(), torch.tensor(scale).double()).sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64), atol=1e-5, rtol=0)
