"""CompressAI takes our modules for its own, and nothing else changes for them."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from ssmctx.entropy.factorized_prior import FactorizedPrior
from ssmctx.lookalike import Lookalike


class Codec(Lookalike, nn.Module, of="compressai.latent_codecs:LatentCodec"):
    """Stands for any of our modules."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.prior = FactorizedPrior(4, filters=(2,))

    def forward(self, x):
        return self.layer(x) + self.prior(x, training=False)[1]


@pytest.fixture
def codec():
    import compressai.latent_codecs  # noqa: F401

    return Codec().eval()


def test_compressai_takes_them_for_its_own(codec):
    from compressai.entropy_models import EntropyBottleneck, EntropyModel
    from compressai.latent_codecs import LatentCodec

    assert isinstance(codec, LatentCodec)
    assert isinstance(codec, Codec)
    assert isinstance(codec, nn.Module)
    assert isinstance(codec.prior, (EntropyBottleneck, EntropyModel))
    assert isinstance(codec.prior, EntropyModel)
    assert isinstance(codec.prior, FactorizedPrior)
    assert not isinstance(codec, EntropyBottleneck)
    assert type(codec) is Codec
    assert codec.__class__ is codec.__class__
    assert codec.__class__.__qualname__ == "Codec"
    assert "Codec(\n  (layer): Linear" in repr(codec)
    assert "(prior): FactorizedPrior(\n    4, filters=(2,)" in repr(codec)


def test_a_library_that_is_loaded_later_takes_them_too():
    code = """
import pickle, sys
from ssmctx.entropy.factorized_prior import FactorizedPrior
prior = FactorizedPrior(2)
kept = pickle.dumps(prior)
assert prior.__class__ is FactorizedPrior and "compressai" not in sys.modules
from compressai.entropy_models import EntropyBottleneck
assert isinstance(prior, EntropyBottleneck) and isinstance(pickle.loads(kept), EntropyBottleneck)
sys.stdout.buffer.write(pickle.dumps(prior))
"""
    with_compressai = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    assert b"compressai" not in with_compressai.stdout
    code = """
import pickle, sys
prior = pickle.load(sys.stdin.buffer)
assert type(prior) is prior.__class__ and prior.channels == 2 and "compressai" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, input=with_compressai.stdout)


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "save": saved,
    **{f"pickle{n}": lambda module, n=n: pickle.loads(pickle.dumps(module, n)) for n in range(6)},
    "replica": lambda module: module._replicate_for_data_parallel(),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_whole(codec, how):
    made = COPIES[how](codec)
    assert type(made) is Codec
    assert vars(made).keys() - {"_former_parameters", "_is_replica"} == vars(codec).keys()
    if how != "replica":
        assert torch.equal(made(torch.ones(1, 4)), codec(torch.ones(1, 4)))


def test_another_process_can_be_given_one(codec):
    codec.requires_grad_(False)
    context = torch.multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        torch.testing.assert_close(pool.apply(codec, (torch.ones(1, 4),)), codec(torch.ones(1, 4)))


def test_a_parametrisation_comes_and_goes(codec):
    from torch.nn.utils import parametrize

    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    prior = codec.prior
    parametrize.register_parametrization(prior, "quantiles", Twice())
    assert prior.medians().shape == (1, 4, 1, 1)
    assert prior.quantiles[0, 0, 2] == 20
    assert isinstance(prior, FactorizedPrior)
    parametrize.remove_parametrizations(prior, "quantiles")
    assert type(prior) is FactorizedPrior
    assert prior.quantiles[0, 0, 2] == 20
    assert type(pickle.loads(pickle.dumps(prior))) is FactorizedPrior


def test_compile_export_and_trace_go_through(codec):
    x = torch.randn(3, 4)
    expected = codec(x)
    torch.testing.assert_close(torch.compile(codec, backend="aot_eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(torch.export.export(codec, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.jit.trace(codec, (x,))(x), expected)


def test_fully_shard_gives_the_same_gradients(codec, tmp_path):
    from torch.distributed.fsdp import FSDPModule, fully_shard

    whole = copy.deepcopy(codec)
    x = torch.randn(3, 4)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        fully_shard(codec.prior, mesh=mesh)
        fully_shard(codec, mesh=mesh)
        assert isinstance(codec, FSDPModule)
        assert isinstance(codec, Codec)
        for model in (whole, codec):
            model(x).square().sum().backward()
        for ours, theirs in zip(codec.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad)
    finally:
        torch.distributed.destroy_process_group()
