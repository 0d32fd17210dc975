"""Proof that the kit bites: every planted fault is caught by the law that should, and its sound twin passes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from gallery import faulty_codecs as codecs
from gallery import faulty_parts as parts
from gallery.compressai_codecs import checkerboard
from gallery.one_thread import one_thread  # noqa: F401 - applies to every test here
from gallery.sound import M, SoundCodec, SoundModel

from ssmctx import CodingOrder
from ssmctx.entropy.rans import RansCoder
from ssmctx.errors import StreamError
from ssmctx.testing import (
    Corruption,
    Image,
    Latent,
    LawBroken,
    ScanCase,
    assert_any_size,
    assert_block,
    assert_causal,
    assert_coder,
    assert_deterministic,
    assert_partition,
    assert_real_bits,
    assert_rejects_corruption,
    assert_round_trip,
    assert_scan_equal,
    assert_state_dict,
    run_laws,
    update_tables,
)

BATCH = Latent(M, 7, 6, batch=2).tensor()
LARGE = Latent(M, 16, 16).tensor()
SCAN = ScanCase(height=3, width=5, states=3)


def ready(make):
    torch.manual_seed(0)
    codec = make().eval()
    update_tables(codec)
    return codec


def round_trip(make, x=BATCH):
    assert_round_trip(ready(make), x)


def any_size(make):
    assert_any_size(ready(make), lambda height, width: Latent(M, height, width).tensor())


def any_image_size(make):
    assert_any_size(ready(make), lambda height, width: Image(height, width).tensor())


def deterministic(make):
    assert_deterministic(ready(make), BATCH)


def real_bits(make):
    assert_real_bits(ready(make), LARGE)


def state_dict(make):
    assert_state_dict(make, BATCH[:1])


def corruption(make, **options):
    assert_rejects_corruption(ready(make), BATCH[:1], errors=(StreamError,), **options)


def causal(make):
    assert_causal(make().eval(), BATCH, Latent(2 * M, 7, 6, batch=2, seed=1).tensor())


def block(make):
    assert_block(make(), 8)


@dataclass(frozen=True)
class Fault:
    """A bug, the check that must catch it, the law that the check names, and what its message must say.

    Attributes:
        faulty: what has the bug.
        sound: the same without it.
        check: takes either.
        law: that is broken.
        found: regular expression.
    """

    faulty: object
    sound: object
    check: Callable[[object], None]
    law: str
    found: str


def codec_fault(faulty, check, law, found, sound=SoundCodec):
    return Fault(faulty, sound, check, law, found)


FAULTS = [
    codec_fault(codecs.LeakFromCurrentPass, round_trip, "round trip", "decompress gives another y_hat than compress"),
    codec_fault(codecs.LeakFromLaterSlice, round_trip, "round trip", "decompress gives another y_hat than compress"),
    codec_fault(
        codecs.ParitySwappedInDecoder, round_trip, "round trip", "decompress gives another y_hat than compress"
    ),
    codec_fault(codecs.PredictionAddedOnOneSide, round_trip, "round trip", r"another y_hat than compress: element \["),
    codec_fault(codecs.RoundsWithoutTheMean, round_trip, "round trip", "another y_hat than forward"),
    codec_fault(
        partial(checkerboard, pointwise=False),
        partial(round_trip, x=Latent(M, 8, 8).tensor()),
        "round trip",
        "another y_hat than forward",
        partial(checkerboard, pointwise=True),
    ),
    codec_fault(codecs.ChangesItsInput, round_trip, "round trip", "forward changed its input"),
    codec_fault(
        codecs.EightBitSymbols,
        partial(round_trip, x=Latent(M, 7, 6, kind="spikes").tensor()),
        "round trip",
        "another y_hat than compress",
    ),
    codec_fault(codecs.OneStreamForTheBatch, round_trip, "round trip", "compress gave 1 streams where a batch of 2"),
    codec_fault(codecs.NormalisesOverTheBatch, deterministic, "deterministic", "image 0 gives other streams"),
    codec_fault(codecs.KeepsTheLastImage, deterministic, "deterministic", "a second time|raised"),
    codec_fault(codecs.DropsOutWhileCoding, deterministic, "deterministic", "twice gives other streams"),
    codec_fault(
        codecs.HalvesOddSides, any_size, "any size", r"9 of 10 sizes fail \(1x1, 1x2, 2x1, .*decompress raised"
    ),
    codec_fault(codecs.CachesItsMask, any_size, "any size", r"9 of 10 sizes fail \(1x2, .*raised IndexError"),
    codec_fault(codecs.ModelWithoutCropping, any_image_size, "any size", "at 1x1: .* comes back as", SoundModel),
    codec_fault(codecs.ForgetsZ, real_bits, "real bits", r"\d+ real bits, \d+ estimated \(y \d+\), \+\d"),
    codec_fault(codecs.CoderOfAnotherScale, real_bits, "real bits", r"estimated \(y \d+ \+ z \d+\), \+\d"),
    Fault(
        codecs.bpp_by_length,
        codecs.bpp_by_bytes,
        lambda bpp: assert_real_bits(ready(SoundCodec), LARGE, bpp_of=bpp),
        "real bits",
        r"bpp_of reports 8 bits .* the streams have \d{4}",
    ),
    Fault(
        codecs.estimated_bpp_of_y,
        codecs.estimated_bpp,
        lambda bpp: assert_real_bits(ready(SoundCodec), LARGE, estimated_bpp_of=bpp),
        "real bits",
        "estimated_bpp_of reports .* all likelihoods make",
    ),
    codec_fault(codecs.TablesAreNotSaved, state_dict, "state dict", "loading directly, source updated, target updated"),
    codec_fault(codecs.HoldsALambda, state_dict, "state dict", r"1 of 13 ways fail:\s+- pickle: .*lambda"),
    codec_fault(codecs.FixedPrecision, state_dict, "state dict", r"1 of 13 ways fail:\s+- coding in torch.float64"),
    codec_fault(codecs.TrustsTheStream, corruption, "corruption", "killed by SIG|reconstruction, silently"),
    codec_fault(codecs.FillsUpWithZeros, corruption, "corruption", "reconstruction, silently instead of an error"),
    codec_fault(
        codecs.AllocatesWhatTheStreamSays,
        partial(corruption, corruptions=[Corruption("flip", 0, 31)]),
        "corruption",
        "exceeded its memory limit",
    ),
    codec_fault(
        codecs.LoopsUntilAMark,
        partial(corruption, corruptions=[Corruption("cut", 1, 9)], seconds=1.0),
        "corruption",
        "did not finish within 1 s",
    ),
    codec_fault(codecs.DiesOfDamage, corruption, "corruption", "the process was killed by SIGABRT"),
    Fault(
        parts.SeesItsOwnPass, parts.SoundContext, causal, "causal", r"step 0: the mean, .* with the symbols of step 0"
    ),
    Fault(parts.SeesALaterSlice, parts.SoundContext, causal, "causal", "step 0: .* with the symbols of step 2, 3"),
    Fault(parts.MasksByMultiplying, parts.SoundContext, causal, "causal", "moved with NaN in what is not coded"),
    Fault(parts.KeepsAStaleState, parts.SoundContext, causal, "causal", "step 1: .* when the steps share their state"),
    Fault(
        parts.RefinesWithALaterSlice,
        parts.Refines,
        causal,
        "causal",
        "step 1, refine: the prediction 0, .* with the symbols of step 2, 3",
    ),
    Fault(
        parts.CodesAnchorsTwice,
        CodingOrder,
        lambda order: assert_partition(order([3, 3]), (3, 4)),
        "order",
        r"\[0, 0, 0\] of a 3x4 latent is coded 2 times; 36 of 72",
    ),
    Fault(
        parts.loses_a_channel,
        lambda: CodingOrder([3, 3]),
        lambda order: assert_partition(order(), (3, 4)),
        "order",
        r"\[5, 0, 0\] of a 3x4 latent is coded 0 times",
    ),
    Fault(
        codecs.UnmaskedWindows,
        partial(codecs.UnmaskedWindows, masked=True),
        block,
        "block",
        "at 1x13 a constant image",
    ),
    Fault(codecs.UncroppedWindows, partial(codecs.UnmaskedWindows, masked=True), block, "block", "at 1x1 the shape"),
    Fault(
        codecs.UnsetBorder, lambda: torch.nn.Conv2d(8, 8, 3, padding=1), block, "block", "memory that was NaN|finite"
    ),
    Fault(codecs.BatchStatistics, torch.nn.Identity, block, "block", "beside another image"),
    *(
        Fault(faulty, parts.sound_backend, lambda make: assert_scan_equal(make(), SCAN), "fast = slow", found)
        for faulty, found in (
            (parts.loses_the_carry, "v of backend 'loses the carry' is"),
            (parts.walks_the_wrong_way, "v of backend"),
            (parts.forgets_a_gradient, "gradient of u of backend"),
            (parts.reads_what_it_never_wrote, "is nan at"),
        )
    ),
    Fault(
        parts.swaps_the_parts_of_a_gradient,
        parts.sound_low_rank_backend,
        lambda make: assert_scan_equal(make(), replace(SCAN, rank=2)),
        "fast = slow",
        "gradient of B of backend 'swaps the parts'",
    ),
    Fault(parts.ZerosAtTheEnd, lambda sound: sound, lambda make: assert_coder(make(RansCoder())), "coder", "passes"),
]


def name(fault: Fault) -> str:
    inner = getattr(fault.faulty, "func", fault.faulty)
    return inner.__name__


@pytest.mark.parametrize("fault", FAULTS, ids=name)
def test_the_law_catches_the_fault_and_passes_its_sound_twin(fault):
    with pytest.raises(LawBroken, match=fault.found) as caught:
        fault.check(fault.faulty)
    assert caught.value.law == fault.law
    assert caught.value.cause
    assert passes(fault.check, fault.sound)


@functools.cache
def passes(check, sound):
    check(sound)
    return True


def test_the_gallery_is_as_large_as_promised():
    assert len({name(fault) for fault in FAULTS}) >= 12
    laws = {fault.law for fault in FAULTS}
    assert laws >= {"causal", "round trip", "any size", "deterministic", "real bits", "state dict", "corruption"}


@pytest.mark.parametrize(
    ("make", "make_input", "size"),
    [
        (SoundCodec, lambda height, width: Latent(M, height, width).tensor(), (16, 16)),
        (SoundModel, lambda height, width: Image(height, width).tensor(), (48, 40)),
    ],
)
def test_a_sound_codec_passes_every_law(make, make_input, size):
    verdicts = run_laws(make, make_input, size, trained=True, errors=(StreamError,))
    assert {verdict.law for verdict in verdicts if verdict.result != "holds"} == set(), verdicts
    assert len(verdicts) == 7
