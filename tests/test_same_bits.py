"""Copies, replicas, gradient modes, threads at once and training in between change no bit of what is coded."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn

from ssmctx import MambaICEntropyModel, registry

M = 20


@pytest.fixture(scope="module", params=["channel-spatial", "released", "none"])
def model(request):
    """A briefly trained model: its weights are no longer those of a start."""
    torch.manual_seed(0)
    context = registry.contexts.create_with(request.param, M, d_state=3)
    model = MambaICEntropyModel(M, hyper_channels=8, N=8, context=context).train()
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(3):
        out = model(3 * torch.randn(2, M, 8, 8))
        loss = sum(-p.log2().sum() for p in out["likelihoods"].values()) + out["y_hat"].square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    model.update(force=True)
    return model.eval()


def saved_and_loaded(model):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.fill_(torch.nan)
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue())))
    return other


def trained_and_back(model):
    other = copy.deepcopy(model)
    other.train()(torch.randn(1, M, 3, 3))
    return other.eval()


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "saved": saved_and_loaded,
    "DataParallel": nn.DataParallel,
    "trained and back": trained_and_back,
}


def bits(model, y):
    return model(y)["y_hat"].detach()


@pytest.mark.parametrize("size", [(1, 1), (7, 10), (16, 17)])
def test_gradient_modes(model, size):
    y = 3 * torch.randn(2, M, *size)
    with torch.no_grad():
        expected = bits(model, y)
    assert torch.equal(bits(model, y), expected)
    assert torch.equal(bits(model, y.clone().requires_grad_()), expected)
    with torch.inference_mode():
        assert torch.equal(bits(model, y), expected)
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert torch.equal(bits(frozen, y), expected)
    coded = model.compress(y)
    assert torch.equal(coded["y_hat"], expected)
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], expected)


@pytest.mark.parametrize("name", COPIES)
def test_copies(model, name):
    y = 3 * torch.randn(2, M, 9, 11)
    with torch.no_grad():
        expected = bits(model, y)
    assert torch.equal(bits(COPIES[name](model), y), expected)


def test_many_threads_at_once(model):
    y = 3 * torch.randn(1, M, 9, 11)
    with torch.no_grad():
        expected = bits(model, y)
    found = []

    def work():
        found.extend(torch.equal(bits(model, y), expected) for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 12


def test_another_number_of_threads_decodes_the_same_symbols(model):
    """torch may round otherwise with other threads; the guard keeps the symbols, the means drift in the last digits."""
    y, before = 3 * torch.randn(1, M, 16, 17), torch.get_num_threads()
    coded = model.compress(y)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y_hat = model.decompress(coded["strings"], coded["shape"])["y_hat"]
            torch.testing.assert_close(y_hat, coded["y_hat"], rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)
