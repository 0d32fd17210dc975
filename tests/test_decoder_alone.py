"""A decoder knows nothing but strings and weights: with fewer strings it refuses, and the kit decodes in a copy."""

from __future__ import annotations

import pytest
import torch
from gallery.alone import KeepsSideInformation
from gallery.sound import M as SOUND_M
from gallery.sound import SoundCodec
from models import context, latent

from ssmctx import MambaICEntropyModel
from ssmctx.entropy.bitstream.checksums import UNCHECKED
from ssmctx.errors import ArgumentError, StreamError
from ssmctx.testing import Latent, LawBroken, assert_round_trip, run_laws, update_tables

M = 10


def model_of(**changes):
    torch.manual_seed(2)
    model = MambaICEntropyModel(M, hyper_channels=6, N=4, context=context(), **changes).eval()
    model.update()
    return model


@pytest.mark.parametrize("kept", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_streams_without_their_checks_are_refused(kept, batch):
    model = model_of()
    coded = model.compress(latent(1, batch, M, 6, 6))
    message = rf"got {kept} lists: keep all that compress gives" if kept > 1 else "got lists of lengths"
    with pytest.raises(ArgumentError, match=message):
        model.decompress(coded["strings"][:kept], coded["shape"])


@pytest.mark.parametrize("band", [0.0, 2.0**-13])
@pytest.mark.parametrize("seed", range(5))
def test_checks_that_were_emptied_or_exchanged_are_noticed(band, seed):
    model = model_of(guard_band=band)
    y, z, checksums, guard = (streams[0] for streams in model.compress(latent(seed, 1, M, 9, 8))["strings"])
    others = [streams[0] for streams in model.compress(latent(seed + 99, 1, M, 9, 8))["strings"]]
    shape = {"y": (9, 8), "hyper": (3, 2)}

    def decode(*sections):
        return model.decompress([[section] for section in sections], shape)

    assert decode(y, z, checksums, guard)["y_hat"].shape == (1, M, 9, 8)
    wrong = [
        (y, z, b"", guard),
        (y, z, others[2], guard),
        (others[0], z, checksums, guard),
        (y, others[1], checksums, guard),
    ]
    wrong += [(y, z, checksums[:-1], guard), (y, z, checksums, guard + b"\0"), (y, z, None, guard)]
    if band:
        wrong += [(y, z, checksums, b""), (y, z, UNCHECKED, guard), (y, z, checksums, guard[:1])]
    for sections in wrong:
        with pytest.raises(StreamError):
            decode(*sections)


@pytest.mark.parametrize("checked", [True, False])
def test_a_stream_is_read_to_its_end_with_checksums_and_without(checked):
    model = model_of(guard_band=0.0)
    coded = model.compress(latent(3, 1, M, 9, 8))
    y, z, checksums, guard = (streams[0] for streams in coded["strings"])
    checksums = checksums if checked else UNCHECKED

    def decode(y, z):
        return model.decompress([[y], [z], [checksums], [guard]], coded["shape"])["y_hat"]

    assert torch.equal(decode(y, z), coded["y_hat"])
    for longer in (
        (y + b"\0\0\0\0", z),
        (y, z + b"\0\0\0\0"),
        (y + b"more", z),
        (y, z + b"\1"),
        (y[:-4], z),
        (y, z[:-4]),
    ):
        with pytest.raises(StreamError):
            decode(*longer)


def test_checksums_serve_long_and_short_streams():
    model = model_of()
    for size, bytes_of_checksums in ((4, 5), (24, 3 + 2 * model.context.order.num_steps)):
        coded = model.compress(latent(4, 1, M, size, size))
        assert len(coded["strings"][2][0]) == bytes_of_checksums
        assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])


# --- what the encoder keeps in the object


def ready(make):
    torch.manual_seed(0)
    codec = make().eval()
    update_tables(codec)
    return codec


def test_side_information_that_stays_in_the_encoder_is_found():
    x = Latent(SOUND_M, 7, 6, batch=2).tensor()
    assert_round_trip(ready(SoundCodec), x)
    cheat = ready(KeepsSideInformation)
    coded = cheat.compress(x)
    assert torch.equal(cheat.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])  # it can itself
    with pytest.raises(LawBroken, match=r"only the codec that encoded can decode; a copy: .*KeyError") as caught:
        assert_round_trip(ready(KeepsSideInformation), x)
    assert "put all of it into the strings" in caught.value.cause


def test_the_report_finds_it_too():
    def make_input(height, width):
        return Latent(SOUND_M, height, width).tensor()

    verdicts = {verdict.law: verdict for verdict in run_laws(KeepsSideInformation, make_input, sizes=[(1, 1), (4, 3)])}
    assert {"round trip", "any size"} <= {law for law, verdict in verdicts.items() if verdict.result == "BROKEN"}
