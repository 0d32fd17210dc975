"""Tables load in any size, and come to no harm from what happens to weights and buffers."""

import copy

import pytest
import torch
from priors import Parent, layout, pair, updated
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from ssmctx.distributions import Gaussian
from ssmctx.entropy.factorized_prior import FactorizedPrior
from ssmctx.entropy.stored_tables import StoredTables
from ssmctx.errors import ArgumentError, NotUpdatedError


@pytest.mark.parametrize("update_source", [True, False])
@pytest.mark.parametrize("update_target", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_tables_of_any_size_load(update_source, update_target, assign):
    source, target = (Parent(pair(3, seed)[1]) for seed in (1, 2))
    if update_source:
        source.prior.update(update_quantiles=True)
    if update_target:
        target.prior.update()
    state = copy.deepcopy(source.state_dict())
    target.load_state_dict(state, assign=assign)
    assert layout(target) == layout(source)
    assert all(torch.equal(target.state_dict()[name], value) for name, value in state.items())
    if update_source:
        assert target.prior.tables().fingerprint() == source.prior.tables().fingerprint()
    else:
        with pytest.raises(NotUpdatedError, match=r"FactorizedPrior has no coding tables: call update\(\)"):
            target.prior.tables()


def test_what_is_missing_or_unknown_is_told():
    state = dict(updated().state_dict())
    del state["_cdf_length"]
    with pytest.raises(RuntimeError, match=r"Missing key.*_cdf_length"):
        FactorizedPrior(3).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        FactorizedPrior(3).load_state_dict({**updated().state_dict(), "other": torch.ones(1)})
    with pytest.raises(RuntimeError, match="_offset"):
        FactorizedPrior(3).load_state_dict({**updated().state_dict(), "_offset": "text"})


def test_loaded_nonsense_is_refused():
    prior = updated()
    assert prior.tables() is prior.tables()
    state = copy.deepcopy(prior.state_dict())
    state["_quantized_cdf"][0, 1] = 0
    prior.load_state_dict(state)
    with pytest.raises(ArgumentError, match="must increase strictly"):
        prior.tables()
    prior.update(force=True)
    assert prior.tables().fingerprint() == updated().tables().fingerprint()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tables_that_were_cast_are_refused(dtype):
    stored = StoredTables(Gaussian().tables(), "gaussian")
    for module, message in ((updated(), "coding tables must be integers"), (stored, f"got {dtype}: do not cast")):
        module.load_state_dict({name: value.to(dtype) for name, value in module.state_dict().items()})
        with pytest.raises(ArgumentError, match=message):
            module.tables()


@pytest.mark.parametrize("where", ["made", "updated", "loaded", "copied"])
def test_what_happened_in_inference_mode_serves_outside(where):
    prior = pair()[1]
    with torch.inference_mode():
        if where == "made":
            prior = FactorizedPrior(3)
        elif where == "loaded":
            prior.load_state_dict(updated().state_dict())
        prior.update(force=True, update_quantiles=True)
        stored = StoredTables(Gaussian().tables(), "gaussian")
        if where == "copied":
            prior, stored = copy.deepcopy(prior), copy.deepcopy(stored)
    expected = FactorizedPrior(3)
    expected.load_state_dict(prior.state_dict())
    assert prior.tables().fingerprint() == expected.tables().fingerprint()
    assert stored.tables().fingerprint() == Gaussian().tables().fingerprint()
    assert copy.deepcopy(prior).tables().fingerprint() == expected.tables().fingerprint()
    if where != "copied":  # torch makes the copies of parameters fit for inference only
        prior(torch.randn(1, 3, 2, 2))[1].sum().backward()
        prior.loss().backward()
        assert all(p.grad is not None for p in prior.parameters())
        prior.update(force=True, update_quantiles=True)


@pytest.mark.parametrize("assign", [True, False])
def test_a_model_made_on_the_meta_device_works(assign):
    source = Parent(updated())
    with torch.device("meta"):
        target = Parent(FactorizedPrior(3))
    assert target.prior(torch.ones(2, 3, 4, device="meta"))[1].shape == (2, 3, 4)
    if not assign:
        target.to_empty(device="cpu")
    target.load_state_dict(source.state_dict(), assign=assign)
    assert all(torch.equal(target.state_dict()[name], value) for name, value in source.state_dict().items())
    z = torch.randn(1, 3, 4, 4)
    assert torch.equal(target.prior(z, training=False)[1], source.prior(z, training=False)[1])
    assert target.prior.tables().fingerprint() == source.prior.tables().fingerprint()
    assert target.stored.tables().fingerprint() == Gaussian().tables().fingerprint()
    target.prior.loss().backward()
    target.prior.update(force=True)


def test_stored_tables_survive_to_empty():
    stored = StoredTables(Gaussian().tables(), "gaussian").to_empty(device="cpu")
    assert stored.tables().fingerprint() == Gaussian().tables().fingerprint()


AVERAGES = [{}, {"avg_fn": get_ema_avg_fn(0.9)}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}]


@pytest.mark.parametrize("how", AVERAGES, ids=["swa", "ema", "ema-multi"])
@pytest.mark.parametrize("use_buffers", [True, False])
def test_averaging_weights_leaves_tables_alone(how, use_buffers):
    model = Parent(updated(3, 1))
    average = AveragedModel(model, use_buffers=use_buffers, **how)
    tables = model.prior.tables().fingerprint()
    for _ in range(4):
        with torch.no_grad():
            model.prior.matrices[0].add_(torch.randn_like(model.prior.matrices[0]))
        model.prior.update(force=True, update_quantiles=True)  # its tables have other sizes than those of the average
        average.update_parameters(model)
    assert average.module.prior.tables().fingerprint() == tables
    assert average.module.stored.tables().fingerprint() == Gaussian().tables().fingerprint()
    average.module.prior.update(force=True, update_quantiles=True)
    assert average.module.prior.tables().fingerprint() != tables


def test_stored_tables_can_be_replaced_and_see_changes():
    stored = StoredTables(Gaussian().tables(), "gaussian")
    stored.cdfs[1] += 1
    assert stored.tables().fingerprint() != Gaussian().tables().fingerprint()
    stored.state_dict()["cdfs"][1] -= 1
    assert stored.tables().fingerprint() == Gaussian().tables().fingerprint()
    stored.cdfs.data[0] = 7
    with pytest.raises(ArgumentError, match="must start at 0"):
        stored.tables()
    stored.store(Gaussian().tables())
    assert stored.tables().fingerprint() == Gaussian().tables().fingerprint()


def test_half_precision_and_moves_leave_tables_alone():
    prior = updated()
    tables = prior.tables().fingerprint()
    for moved in (prior.double(), prior.bfloat16(), prior.to("meta")):
        assert moved.tables().fingerprint() == tables
