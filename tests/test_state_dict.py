"""Law 7: a model is a plain module: it saves, loads, copies and moves in any order."""

import copy
import pickle
from contextlib import contextmanager

import pytest
import torch
from models import M, context, entropy_model, latent

from ssmctx import ImageCodec, MambaICEntropyModel
from ssmctx.codec.fingerprint import decoder_fingerprint, old_fingerprint


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
    assert old_fingerprint(target) == old_fingerprint(source)
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


def image_codec() -> ImageCodec:
    g_a, g_s = torch.nn.Conv2d(3, M, 16, stride=16), torch.nn.ConvTranspose2d(M, 3, 16, stride=16)
    return ImageCodec(g_a, g_s, entropy_model()).eval()


def test_the_fingerprint_sees_all_that_decoding_depends_on_and_nothing_else():
    codec = image_codec()
    own = decoder_fingerprint(codec)
    marks, seen, unseen = {own}, 0, set()
    # what a prior and a bound do for a decoder is in the medians and the tables
    encoder_only = ("g_a.", *(f"latent_codec.{part}." for part in ("h_a", "entropy_bottleneck", "scale_bound")))
    for name, value in codec.state_dict().items():
        assert value.numel()
        if name.startswith("latent_codec.entropy_bottleneck._") or name == "latent_codec.y_tables.lengths":
            continue  # tables of which one number alone cannot change
        with one_number_changed(value, 1 if name == "latent_codec.y_tables.cdfs" else -1):
            mark = decoder_fingerprint(codec)
        if name.startswith(encoder_only):
            unseen.add(name)
            assert mark == own
        else:
            seen += 1
            marks.add(mark)
    assert len(marks) == 1 + seen > 50
    assert {"g_a.weight", "latent_codec.h_a.0.weight", "latent_codec.entropy_bottleneck.quantiles"} <= unseen


@contextmanager
def one_number_changed(value: torch.Tensor, index: int):
    numbers = value.view(-1)
    before = numbers.clone()
    numbers[index] += 1
    yield
    numbers.copy_(before)


@pytest.mark.parametrize("what", ["medians", "z's tables", "coder", "stride"])
def test_the_fingerprint_sees_what_is_no_weight(what):
    codec = image_codec()
    own = decoder_fingerprint(codec)
    prior = codec.latent_codec.entropy_bottleneck
    if what == "medians":
        prior.quantiles.data[0, 0, 1] += 0.01
    elif what == "z's tables":
        prior._offset[0] += 1
    elif what == "coder":
        codec.latent_codec.coder.name = "another"
    else:
        codec.stride = 32
    assert decoder_fingerprint(codec) != own


def test_the_fingerprint_of_old_files_sees_every_weight():
    model = entropy_model()
    marks, tables = {old_fingerprint(model)}, 0
    for name, value in model.state_dict().items():
        assert value.numel()
        with one_number_changed(value, -1):
            mark = old_fingerprint(model)
        if name.startswith("y_tables."):  # these are told by the other fingerprint, which refuses what is no table
            tables += 1
            assert mark in marks
        else:
            marks.add(mark)
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
