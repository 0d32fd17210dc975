"""The conformance kit over CompressAI 1.2.8's own codecs, as they come: what holds, and what does not.

What does not hold is a finding. Each is asserted twice, by the kit and by hand without it, so that a version that
changes it shows. docs/how-to/prove-your-codec.md tells them.
"""

from __future__ import annotations

import functools
import pickle

import compressai
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.models import Cheng2020AnchorCheckerboard, Elic2022Official
from gallery import compressai_codecs as codecs
from gallery.one_thread import one_thread  # noqa: F401 - applies to every test here
from gallery.sound import M
from torch import nn

from ssmctx.testing import (
    Corruption,
    Image,
    Latent,
    LawBroken,
    assert_any_size,
    assert_causal_steps,
    assert_deterministic,
    assert_real_bits,
    assert_rejects_corruption,
    assert_round_trip,
    assert_state_dict,
    largest_drift,
    update_tables,
)
from ssmctx.testing.isolation import can_isolate, run_each

pytestmark = pytest.mark.skipif(compressai.__version__ != "1.2.8", reason="the findings are those of CompressAI 1.2.8")
forks = pytest.mark.skipif(not can_isolate(), reason="crashes are only tried in a child process")

DRIFT = 1e-4  # networks round otherwise in another batch; a wrong symbol is off by 1

LATENT_CODECS = {
    codecs.hyperprior: M,
    codecs.checkerboard: M,
    codecs.channel_groups: M,
    codecs.cheng_latent_codec: 12,
    codecs.elic: 20,
}
MODELS = (codecs.cheng, codecs.elic_model)


@functools.cache
def ready(make):
    codec = make().eval()
    update_tables(codec)
    return codec


def latent(make, height=16, width=16, **options):
    return Latent(LATENT_CODECS[make], height, width, **options).tensor()


latent_codecs = pytest.mark.parametrize("make", LATENT_CODECS, ids=lambda make: make.__name__)
models = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)


# --- what holds


@forks
@latent_codecs
def test_latent_codecs_bear_little_drift(make):
    """A GPU and a CPU differ by about 1e-5; in larger images more elements lie near a border, and less is borne."""
    assert 1e-7 <= largest_drift(ready(make), latent(make, 32, 32)) <= 1e-4


@forks
def test_a_whole_model_is_judged_by_what_g_s_is_given():
    assert 1e-7 <= largest_drift(ready(codecs.elic_model), Image(128, 128).tensor()) <= 1e-3


@latent_codecs
def test_latent_codecs_round_trip_but_for_drift(make):
    assert_round_trip(ready(make), latent(make, batch=2), tolerance=DRIFT)


@models
def test_models_round_trip_but_for_drift(make):
    assert_round_trip(ready(make), Image(64, 128, batch=2).tensor(), tolerance=DRIFT)


@latent_codecs
def test_streams_are_deterministic(make):
    assert_deterministic(ready(make), latent(make))


@latent_codecs
def test_real_bits_are_those_estimated(make):
    assert_real_bits(ready(make), latent(make, 32, 32))


@latent_codecs
def test_sizes_of_whole_hyper_cells_come_back(make):
    sizes = [(4, 4), (4, 8), (8, 12), (20, 4)]
    assert_any_size(ready(make), lambda h, w: latent(make, h, w), sizes, tolerance=DRIFT)


# --- what does not: sizes


@latent_codecs
def test_finding_other_sizes_raise_untyped_errors(make):
    with pytest.raises(LawBroken, match=r"9 of 10 sizes fail .*at 1x1: forward raised RuntimeError"):
        assert_any_size(ready(make), lambda h, w: latent(make, h, w))


@torch.no_grad()
def test_finding_by_hand_a_checkerboard_of_odd_width_is_estimated_but_not_coded():
    codec = ready(codecs.checkerboard)["y"]
    y, side = torch.zeros(1, M, 4, 5), torch.zeros(1, 2 * M, 4, 5)
    assert codec(y, side)["y_hat"].shape == y.shape
    with pytest.raises(RuntimeError, match="expanded size"):
        codec.compress(y, side)


# --- loading


@pytest.mark.parametrize(
    ("make", "x", "ways", "lines"),
    [
        (
            codecs.hyperprior,
            Latent(M, 8, 8),
            6,
            ["loading directly, source updated, target not updated: RuntimeError: .*size mismatch"],
        ),
        (
            codecs.cheng,
            Image(64, 64),
            5,
            [
                "loading inside a parent, source updated, target not updated: RuntimeError: .*size mismatch",
                "loading directly, source not updated, target updated: RuntimeError: .*size mismatch",
            ],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_finding_state_dicts_load_into_fresh_models_only(make, x, ways, lines):
    with pytest.raises(LawBroken, match=rf"{ways} of 13 ways fail") as caught:
        assert_state_dict(make, x.tensor(), tolerance=DRIFT)
    for line in lines:
        caught.match(line)


def test_finding_by_hand_a_latent_codec_does_not_load_what_it_saved():
    saved, fresh = codecs.hyperprior(), codecs.hyperprior()
    update_tables(saved)
    with pytest.raises(RuntimeError, match=r"size mismatch for .*_quantized_cdf"):
        fresh.load_state_dict(saved.state_dict())


def test_finding_by_hand_a_model_inside_a_module_does_not_load_what_it_saved():
    saved, fresh = (nn.Sequential(Cheng2020AnchorCheckerboard(N=12)) for _ in range(2))
    saved[0].update()
    with pytest.raises(RuntimeError, match=r"size mismatch for .*_quantized_cdf"):
        fresh.load_state_dict(saved.state_dict())
    fresh[0].load_state_dict(saved[0].state_dict())  # alone it does


def test_finding_by_hand_an_updated_model_does_not_load_a_trained_one():
    updated, trained = Cheng2020AnchorCheckerboard(N=12), Cheng2020AnchorCheckerboard(N=12)
    updated.update()
    with pytest.raises(RuntimeError, match="size mismatch"):
        updated.load_state_dict(trained.state_dict())


def test_finding_by_hand_elic_cannot_be_pickled():
    with pytest.raises((AttributeError, pickle.PicklingError), match="ResidualUnit"):
        pickle.dumps(Elic2022Official(N=16, M=20, groups=[2, 2, 4, 4, 8]))


@torch.no_grad()
def test_finding_by_hand_channel_groups_decode_in_float32_only():
    codec = codecs.channel_groups().eval()
    update_tables(codec)
    codec.double()
    coded = codec.compress(Latent(M, 8, 8).tensor().double())
    with pytest.raises(RuntimeError, match="Input type"):
        codec.decompress(coded["strings"], coded["shape"])


# --- damaged streams


@forks
@pytest.mark.parametrize("make", [codecs.hyperprior, codecs.channel_groups], ids=lambda make: make.__name__)
def test_finding_no_damage_is_refused(make):
    with pytest.raises(LawBroken, match=r"(\d+) of \1 damaged streams are not rejected") as caught:
        assert_rejects_corruption(ready(make), latent(make), errors=(Exception,))
    caught.match("reconstruction, silently instead of an error, the first with Corruption\\(kind='cut'")


@forks
@torch.no_grad()
def test_finding_by_hand_a_cut_stream_is_read_past_its_end():
    codec = ready(codecs.hyperprior)
    coded = codec.compress(Latent(M, 64, 64).tensor())
    [y], [z] = coded["strings"]

    def decode(kept):
        return torch.equal(codec.decompress([[y[:kept]], [z]], coded["shape"])["y_hat"], coded["y_hat"])

    outcomes = list(run_each([lambda kept=kept: decode(kept) for kept in (0, 8, 1000, len(y) // 2)]))
    # whether the process dies depends on what lies behind the bytes; no outcome is an error of the decoder
    assert all(o.value is False or "killed by SIG" in o.failure for o in outcomes), outcomes


@forks
def test_finding_by_hand_a_stream_of_one_symbol_breaks_the_encoder():
    bottleneck = EntropyBottleneck(1)
    bottleneck.update()
    outcomes = list(run_each([lambda n=n: len(bottleneck.compress(torch.zeros(1, 1, 1, n))) for n in (1, 2)]))
    assert "killed by SIG" in outcomes[0].failure
    assert outcomes[1].value == 1


# --- what forward estimates, and what is coded


def test_finding_networks_that_are_not_pointwise_estimate_another_thing_than_is_coded():
    codec = codecs.checkerboard(pointwise=False).eval()
    update_tables(codec)
    y = Latent(M, 8, 8).tensor()
    with pytest.raises(LawBroken, match="decompress gives another y_hat than forward"):
        assert_round_trip(codec, y, tolerance=DRIFT)
    with torch.no_grad():
        coded = codec.compress(y)
        decoded = codec.decompress(coded["strings"], coded["shape"])["y_hat"]
        estimated = codec(y)["y_hat"]
    assert torch.equal(decoded, coded["y_hat"])  # the decoder does follow the encoder
    assert (estimated - decoded).abs().max() > 0.1


@pytest.mark.parametrize("pointwise", [True, False])
def test_one_pass_is_causal_with_pointwise_networks_only(pointwise):
    """As `_forward_onepass` predicts: all elements at once, the context feature blanked at the anchors."""
    codec = codecs.checkerboard(pointwise).eval()["y"]
    side = Latent(2 * M, 4, 6, seed=1).tensor()
    board = (torch.arange(4)[:, None] + torch.arange(6)) % 2 == 0
    masks = [board.expand(M, 4, 6), ~board.expand(M, 4, 6)]

    def predict(step, y_hat):
        feature = codec.context_prediction(y_hat.nan_to_num())  # its mask multiplies, which NaN survives
        return codec.entropy_parameters(codec.merge(codec._keep_only(feature, "non_anchor"), side)).chunk(2, 1)

    y_hat = Latent(M, 4, 6).tensor()
    if pointwise:
        assert_causal_steps(predict, masks, y_hat)
    else:
        with pytest.raises(LawBroken, match=r"step 0: the mean, .* moved with the symbols of step 0"):
            assert_causal_steps(predict, masks, y_hat)


def test_finding_one_pass_rounds_without_the_mean():
    codec = codecs.checkerboard().eval()
    codec["y"].forward_method = "onepass"
    update_tables(codec)
    with pytest.raises(LawBroken, match="decompress gives another y_hat than forward"):
        assert_round_trip(codec, Latent(M, 8, 8).tensor(), tolerance=DRIFT)


def test_finding_scales_are_rounded_up_to_the_table():
    """sigma = 0.3 lies in the middle of two of the 64 levels: the coder pays for the upper one."""
    codec = codecs.hyperprior()
    with torch.no_grad():
        codec["hyper"].h_s.weight.zero_()
        codec["hyper"].h_s.bias.copy_(torch.tensor([0.3] * M + [0.0] * M))
    update_tables(codec)
    y = Latent(M, 256, 256, scale=0.3).tensor()
    with torch.no_grad():
        estimated = -codec.eval()(y)["likelihoods"]["y"].log2().sum().item()
        [y_stream], _ = codec.compress(y)["strings"]
    assert 1.015 < 8 * len(y_stream) / estimated < 1.02


@forks
def test_damage_that_a_container_must_tell_may_decode():
    """The law for a codec that leaves checksums to its container still asks that cuts are refused."""
    kinds = ("flip", "noise", "swap", "extend")
    with pytest.raises(LawBroken, match=r"kind='(cut|empty)'"):
        assert_rejects_corruption(
            ready(codecs.hyperprior),
            latent(codecs.hyperprior),
            [Corruption("flip", 0, 99), Corruption("cut", 0, 100), Corruption("empty", 1)],
            may_decode=kinds,
        )
