"""Law 7: a model is a plain module: it saves, loads, copies and moves in any order."""

import copy
import pickle

import pytest
import torch
from models import M, context, entropy_model, latent
from ssmctx.entropy.fingerprint import fingerprint

from ssmctx import MambaICEntropyModel


def fresh() -> MambaICEntropyModel:
    torch.manual_seed(77)
    return MambaICEntropyModel(M, hyper_channels=6, context=context(), N=4).eval()


@pytest.mark.parametrize("update_source", [True, False])
@pytest.mark.parametrize("update_target", [True, False])
def test_state_dicts_load_whoever_was_updated(update_source, update_target):
    source, target = entropy_model() if update_source else fresh(), fresh()
    if update_target:
        target.update()
    target.load_state_dict(source.state_dict())
    assert fingerprint(target) == fingerprint(source)
    source.update()
    target.update()
    y = latent(0, 1, M, 5, 4)
    assert target.compress(y)["strings"] == source.compress(y)["strings"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_code_alike(copied):
    model = entropy_model()
    y = latent(0, 1, M, 5, 4)
    assert copied(model).compress(y)["strings"] == model.compress(y)["strings"]


def test_double_precision_round_trips():
    model = entropy_model().double()
    y = latent(0, 1, M, 5, 4).double()
    coded = model.compress(y)
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], model(y)["y_hat"])


def test_the_fingerprint_sees_every_weight_and_table():
    model = entropy_model()
    marks, tables = {fingerprint(model)}, 0
    for name, value in model.state_dict().items():
        changed = copy.deepcopy(model)
        changed.state_dict()[name].view(-1)[-1:].add_(1)
        if name.startswith("y_tables."):  # these are told by the other fingerprint, which refuses what is no table
            tables += 1
            assert fingerprint(changed) in marks
        else:
            marks.add(fingerprint(changed))
        assert value.numel()
    assert tables == 3
    assert len(marks) == 1 + len(model.state_dict()) - tables


def test_the_other_fingerprint_sees_coder_and_tables():
    model = entropy_model()
    marks = {model.coding_fingerprint()}
    changed = copy.deepcopy(model)
    changed.y_tables.cdfs[1] += 1
    marks.add(changed.coding_fingerprint())
    changed = copy.deepcopy(model)
    changed.entropy_bottleneck._offset[0] += 1
    marks.add(changed.coding_fingerprint())
    changed = copy.deepcopy(model)
    changed.coder.name = "another"
    marks.add(changed.coding_fingerprint())
    assert len(marks) == 4


def test_a_checkpoint_codes_with_its_own_tables():
    """Also after a release that would build others; and one from before tables were stored gets today's."""
    model, target = entropy_model(), fresh()
    model.y_tables.cdfs[1] += 1
    y = latent(0, 1, M, 5, 4)
    expected = model.compress(y)["strings"]
    target.load_state_dict(model.state_dict())
    assert target.compress(y)["strings"] == expected
    old = {name: value for name, value in entropy_model().state_dict().items() if not name.startswith("y_tables.")}
    target = fresh()
    target.load_state_dict(old)
    assert target.compress(y)["strings"] == entropy_model().compress(y)["strings"] != expected
