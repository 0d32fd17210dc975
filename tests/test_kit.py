"""The conformance kit itself: what it says, that it survives what it tests, and how third parties call it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time

import pytest
import torch
from gallery import faulty_codecs
from gallery.one_thread import one_thread  # noqa: F401 - applies to every test here
from gallery.sound import M, SoundCodec, SoundModel
from hypothesis import settings

from ssmctx import ChannelSpatialContext, MambaICEntropyModel
from ssmctx.errors import ArgumentError, StreamError
from ssmctx.scan import reference
from ssmctx.testing import (
    CORRUPTIONS,
    LATENTS,
    Corruption,
    Image,
    Latent,
    LawBroken,
    ScanCase,
    assert_causal,
    assert_deterministic,
    assert_real_bits,
    assert_rejects_corruption,
    assert_round_trip,
    assert_scan_equal,
    assert_state_dict,
    corruptions_of,
    count_bits,
    isolation,
    poisoned_memory,
    update_tables,
)
from ssmctx.testing.__main__ import main
from ssmctx.testing.broken import difference, in_brief
from ssmctx.testing.contract import evaluating, of_image, streams, with_streams
from ssmctx.testing.strategies import PROFILES, law_settings
from ssmctx.testing.suite import CodecLaws

X = Latent(M, 5, 6, batch=2).tensor()


def ready(make=SoundCodec):
    codec = make().eval()
    update_tables(codec)
    return codec


# --- five lines for a third party


class TestSoundCodec(CodecLaws):
    channels = M
    make = SoundCodec
    errors = (StreamError,)
    size = (16, 16)
    trained = True
    largest = 12


class TestSoundModel(CodecLaws):
    make = SoundModel
    trained = True
    largest = 24
    sizes = ((1, 1), (5, 7), (64, 48))


def test_the_class_finds_a_fault_and_names_the_example():
    body = {"channels": M, "make": faulty_codecs.EightBitSymbols, "kinds": ("spikes",), "largest": 4, "most": 1}
    with pytest.raises(LawBroken, match="another y_hat than compress") as caught:
        type("TestFaulty", (CodecLaws,), body)().test_round_trip()
    notes = "".join("\n".join(getattr(caught.value, "__notes__", [])).split())  # hypothesis writes one argument a line
    assert f"Latent(channels={M},height=" in notes


def test_the_class_says_what_is_missing():
    with pytest.raises(ArgumentError, match=r"TestNothing must define make = staticmethod"):
        type("TestNothing", (CodecLaws,), {})().test_deterministic()


def test_an_untrained_codec_owes_no_real_bits():
    with pytest.raises(pytest.skip.Exception, match="required of a trained model"):
        type("TestUntrained", (CodecLaws,), {"channels": M, "make": SoundCodec})().test_real_bits()


@pytest.mark.parametrize("name", PROFILES)
def test_profiles(monkeypatch, name):
    monkeypatch.setenv("SSMCTX_TESTING_PROFILE", name)
    assert law_settings().max_examples == PROFILES[name]
    assert law_settings().deadline is None
    assert settings.get_profile(f"ssmctx-{name}").max_examples == PROFILES[name]


def test_without_a_profile_hypothesis_decides(monkeypatch):
    monkeypatch.delenv("SSMCTX_TESTING_PROFILE", raising=False)
    assert law_settings().max_examples == settings.default.max_examples
    monkeypatch.setenv("SSMCTX_TESTING_PROFILE", "nightli")
    with pytest.raises(ArgumentError, match="must be one of dev, ci, nightly, got 'nightli'"):
        law_settings()


# --- the command


def test_the_command_prints_a_table_and_is_content(capsys):
    assert main(["gallery.sound:SoundCodec", "--latent-channels", str(M), "--size", "16x16", "--trained"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("gallery.sound:SoundCodec on latents of 6 channels, 16x16, seed 0\nlaw            result")
    laws = ("round trip", "deterministic", "any size", "real bits", "state dict", "corruption", "drift")
    lines = [line for line in out.splitlines()[2:] if not line.startswith("    ")]
    assert [line[:14].rstrip() for line in lines] == list(laws)
    assert "a decoder's results may be off by" in out
    assert out.count("holds") == len(laws)


def test_the_command_finds_a_fault(capsys):
    arguments = ["gallery.faulty_codecs:HalvesOddSides", "--latent-channels", str(M), "--sizes", "2x2,3x3"]
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "any size       BROKEN" in out
    assert "1 of 2 sizes fail (3x3); at 3x3: an input of shape (1, 6, 3, 3) comes back as (1, 6, 2, 2)" in out
    assert "usual cause: padding that is not cropped" in out


def test_the_command_survives_a_crash(capsys):
    assert main(["test_kit:CrashesInForward", "--latent-channels", str(M), "--sizes", "2x2"]) == 1
    out = capsys.readouterr().out
    assert "round trip     BROKEN" in out
    assert "the process was killed by SIGABRT" in out


class CrashesInForward(SoundCodec):
    def forward(self, y):
        os.abort()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("gallery.sound", "give MODULE:FACTORY, such as"),
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("gallery.sound:nothing", "AttributeError"),
        ("gallery.sound:M", "must be a function or class without required arguments, got 6"),
        ("gallery.sound:channels", "TypeError: channels() missing 1 required positional argument"),
    ],
)
def test_the_command_says_why_it_cannot_start(capsys, factory, message):
    assert main([factory]) == 2
    assert message in capsys.readouterr().err


def test_the_command_teaches():
    run = subprocess.run([sys.executable, "-m", "ssmctx.testing", "--help"], capture_output=True, text=True, check=True)
    for word in ("MODULE:FACTORY", "--latent-channels", "the laws:", "examples:", "exit code: 0", *CORRUPTIONS):
        assert word in run.stdout
    with pytest.raises(SystemExit):
        main(["gallery.sound:SoundCodec", "--size", "8"])


# --- what is imported when


def test_importing_ssmctx_does_not_import_the_kit_and_the_kit_nothing_slow():
    code = "import sys, ssmctx; before = set(sys.modules); import ssmctx.testing; print(*before); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = (set(line.split()) for line in out.splitlines())
    assert "ssmctx.testing" not in before
    assert not after & {"hypothesis", "pytest", "compressai", "numba"}


# --- messages


def test_messages_name_step_element_and_amount():
    class WrongAtStepThree(MambaICEntropyModel):
        def decompress(self, strings, shape):
            y_hat = super().decompress(strings, shape)["y_hat"].clone()
            y_hat[0, 3, 1, 2] += 1  # slice 1 of 2 channels, row + column odd: step 3
            return {"y_hat": y_hat}

    codec = ready(lambda: WrongAtStepThree(M=10, hyper_channels=6, N=4))
    with pytest.raises(LawBroken) as caught:
        assert_round_trip(codec, Latent(10, 4, 4).tensor())
    caught.match(
        r"round trip: decompress gives another y_hat than compress: element \[0, 3, 1, 2\] is .* instead of .*;"
    )
    caught.match(r"1 of 160 elements differ, by up to 1; wrong from step 3 on, element \[0, 3, 1, 2\]\n    usual cause")


def test_drift_is_told_from_garbage():
    class Drifts(SoundCodec):
        def decompress(self, strings, shape):
            return {"y_hat": super().decompress(strings, shape)["y_hat"] * (1 + 1e-6)}

    codec = ready(Drifts)
    with pytest.raises(LawBroken, match="the symbols are the same, the numbers differ in their last bits"):
        assert_round_trip(codec, X)
    assert_round_trip(codec, X, tolerance=1e-3)


def test_a_broken_law_travels_between_processes():
    error = LawBroken("causal", "step 3 moved", "a mask")
    again = pickle.loads(pickle.dumps(error))
    assert (again.law, again.found, again.cause, str(again)) == (error.law, error.found, error.cause, str(error))


def test_differences():
    one = torch.tensor([1.0, float("nan"), 3.0])
    assert difference(one, one.clone()) is None
    assert difference(one, torch.tensor([1.0, 2.0, 3.0])).startswith("element [1] is nan instead of 2; 1 of 3")
    assert difference(one, one[:2]) == "shape (3,) instead of (2,)"
    assert difference(one, one.double()) == "torch.float32 instead of torch.float64"
    assert difference(one, one + 1e-3, tolerance=1e-2) is None
    assert in_brief(ValueError("a\n  b " + "x" * 300)).startswith("ValueError: a b xxx")
    assert len(in_brief(ValueError("x" * 300))) == 200


# --- the contract


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forward": lambda y: {"y_hat": y}}, 'forward must return a dict with "likelihoods", got the keys'),
        ({"compress": lambda y: [b""]}, 'compress must return a dict with "strings" and "shape", got list'),
        ({"decompress": lambda *_: {"x": 1}}, 'decompress must return a dict with "y_hat" or "x_hat", got the keys'),
        ({"decompress": lambda *_: 1 / 0}, "decompress raised ZeroDivisionError"),
        ({"decompress": lambda *_: {"y_hat": X[..., :4]}}, "comes back as"),
    ],
)
def test_what_breaks_the_contract_is_named(monkeypatch, change, message):
    codec = ready()
    for name, value in change.items():
        monkeypatch.setattr(codec, name, value)
    with pytest.raises(LawBroken, match=message):
        assert_round_trip(codec, X)


def test_what_is_no_codec_is_no_broken_law():
    with pytest.raises(ArgumentError, match="Linear has no compress and no decompress"):
        assert_round_trip(torch.nn.Linear(1, 1), X)
    with pytest.raises(ArgumentError, match=r"the factory must make an nn\.Module, got int"):
        assert_state_dict(int, X)
    with pytest.raises(ArgumentError, match="bytes nested in lists, tuples or dicts, got int"):
        count_bits([[1]])
    with pytest.raises(ArgumentError, match=r"may_decode takes kinds of .* got \['flips'\]"):
        assert_rejects_corruption(ready(), X, may_decode=["flips"])


def test_strings_of_any_nesting():
    nested = {"y": [[b"a", b"b"], (b"c", b"d")], "z": [bytearray(b"e"), b"f"]}
    assert streams(nested) == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert count_bits(nested) == 48
    assert of_image(nested, 1, 2, "law") == {"y": [[b"b"], [b"d"]], "z": [b"f"]}
    assert with_streams(nested, [b"0", b"1", b"2", b"3", b"4", b"5"])["z"] == [b"4", b"5"]
    with pytest.raises(LawBroken, match="compress gave 1 streams where a batch of 2 needs 2"):
        of_image([[b"a"]], 0, 2, "law")


def test_evaluation_mode_is_borrowed():
    codec = ready().train()
    codec.h_a.eval()
    with evaluating(codec):
        assert not any(m.training for m in codec.modules())
        assert not torch.is_grad_enabled()
    assert codec.training
    assert not codec.h_a.training
    assert codec.h_s.training


def test_a_codec_need_be_no_module():
    codec = ready()

    class Plain:
        forward, compress, decompress = codec.forward, codec.compress, codec.decompress

    assert_round_trip(Plain(), X)
    assert_deterministic(Plain(), X)


def test_whole_models_are_judged_by_their_clamped_images():
    model = ready(SoundModel)
    with torch.no_grad():
        model.g_s.bias += 2  # most values beyond 1, so that the clamp matters
    x = Image(9, 13, batch=2).tensor()
    assert model(x)["x_hat"].max() > 1
    assert_round_trip(model, x)


def test_reported_rates_are_checked_in_both_directions():
    codec, x = ready(), Latent(M, 16, 16).tensor()
    assert_real_bits(codec, x, bpp_of=lambda coded: count_bits(coded["strings"]) / 1024, pixels=1024)
    for wrong in (lambda coded: count_bits(coded["strings"]) / 8 / 256, lambda coded: float("nan")):
        with pytest.raises(LawBroken, match="bpp_of reports"):
            assert_real_bits(codec, x, bpp_of=wrong)


# --- inputs


def test_inputs_are_their_numbers():
    for kind in LATENTS:
        case = Latent(3, 4, 5, 2, seed=9, kind=kind)
        assert torch.equal(case.tensor(), eval(repr(case)).tensor())
        assert case.tensor().isfinite().all()
    assert Image(7, 9).tensor().aminmax() >= (0, 0)
    with pytest.raises(ArgumentError, match="kind must be one of"):
        Latent(1, 1, 1, kind="spike").tensor()
    with pytest.raises(ArgumentError, match="kind must be one of"):
        Corruption("bend").apply([b"x"])


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_change_one_stream(kind):
    strings = [[b"the stream of y", b"another"], [b"that of z"]]
    for number in range(3):
        changed = streams(Corruption(kind, number, 5).apply(strings))
        assert [a != b for a, b in zip(changed, streams(strings), strict=True)] == [i == number for i in range(3)]
    assert len(streams(Corruption(kind, 0, 5).apply([[b""]]))) == 1


def test_the_usual_corruptions_are_of_every_kind_and_change_something():
    strings = [[b"the stream of y"], [b"that of z"], [b""]]
    assert {c.kind for c in corruptions_of(strings)} == set(CORRUPTIONS)
    assert all(c.apply(strings) != strings for c in corruptions_of(strings[:2]))


# --- isolation and poison


def test_a_child_process_takes_the_blows():
    def too_much():
        return bytearray(3 << 30)

    tasks = [lambda: 1, too_much, lambda: 1 / 0, os.abort, lambda: torch.ones(1000).sum()]
    outcomes = list(isolation.run_each(tasks, seconds=60.0, memory_bytes=1 << 30))
    assert [o.failure and o.failure.split(" (")[0] for o in outcomes] == [
        None,
        "it exceeded its memory limit",
        "ZeroDivisionError: division by zero",
        "the process was killed by SIGABRT",
        None,
    ]
    assert (outcomes[0].value, outcomes[-1].value) == (1, 1000)
    late, *others = isolation.run_each([lambda: time.sleep(1.5), lambda: "a", lambda: "b"], seconds=1.0)
    assert late.failure.startswith("did not finish within 1 s")
    assert [o.value for o in others] == ["a", "b"]


def test_an_endless_decoder_is_said_to_be_one():
    def endless(strings, shape):
        while strings != intact:
            time.sleep(0.1)
        return type(codec).decompress(codec, strings, shape)

    codec = ready()
    intact = codec.compress(X)["strings"]
    codec.decompress = endless
    cut = Corruption("cut", stream=0, offset=9)
    with pytest.raises(LawBroken, match=r"(?s)1: did not finish within 1 s.*cause: the decoder trusts the stream"):
        assert_rejects_corruption(codec, X, [cut], errors=(StreamError,), seconds=1.0)


def test_where_there_is_no_fork_the_laws_run_here(monkeypatch):
    monkeypatch.setattr(isolation, "can_isolate", lambda: False)
    assert [o.value or o.failure for o in isolation.run_each([os.getpid, lambda: [][0]])] == [
        os.getpid(),
        "IndexError: list index out of range",
    ]
    assert_rejects_corruption(ready(), X, errors=(StreamError,))


def test_poison_ends_with_its_block():
    clean = torch.empty
    with poisoned_memory():
        assert torch.empty(2).isnan().all()
        assert torch.ones(1).new_empty(3).isnan().all()
        assert (torch.empty(2, dtype=torch.int32) == 113).all()
    assert torch.empty is clean
    with pytest.raises(ZeroDivisionError), poisoned_memory():
        _ = 1 / 0
    assert torch.empty is clean


# --- laws that need no gallery


def test_a_function_can_be_judged_as_a_scan():
    assert_scan_equal(reference.forward, ScanCase(), dtype=torch.float64)
    with pytest.raises(LawBroken, match="v of forward_twice is"):
        assert_scan_equal(forward_twice, ScanCase())


def forward_twice(inputs):
    v, last = reference.forward(inputs)
    return 2 * v, last


def test_single_steps_can_be_judged():
    context = ChannelSpatialContext(4, 2, window_size=4, d_state=2).eval()
    y_hat, side = Latent(4, 3, 3).tensor(), Latent(8, 3, 3, seed=1).tensor()
    assert_causal(context, y_hat, side, steps=[2])
    bad = y_hat.clone()
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(LawBroken, match="step 2: mean is not finite"):
        assert_causal(context, bad, side, steps=[2])
