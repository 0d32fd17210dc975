"""The hash of a decoder in files: made once, and anew when any weight changes."""

import pytest
import torch
from torch import nn

from ssmctx import ImageCodec, MambaICEntropyModel
from ssmctx.codec import fingerprint


def test_the_fingerprint_is_made_anew_when_a_weight_changes(monkeypatch):
    """Hashing a large model takes a second, so that it is done once; every change in place is seen."""
    g_a, g_s = nn.Conv2d(3, 10, 16, stride=16), nn.ConvTranspose2d(10, 3, 16, stride=16)
    codec = ImageCodec(g_a, g_s, MambaICEntropyModel(M=10, hyper_channels=4, N=2)).eval()
    codec.update()
    hashed = []
    count = fingerprint._decoder_hash
    monkeypatch.setattr(fingerprint, "_decoder_hash", lambda *a: hashed.append(1) or count(*a))
    first = fingerprint.decoder_fingerprint(codec)
    assert fingerprint.decoder_fingerprint(codec) == first
    assert len(hashed) == 1
    seen = {first}
    with torch.no_grad():
        prior = codec.latent_codec.entropy_bottleneck
        for weight in (g_s.weight, codec.latent_codec.context.first_channel, prior.quantiles):
            weight.add_(1)
            seen.add(fingerprint.decoder_fingerprint(codec))
    codec.g_s.bias = nn.Parameter(codec.g_s.bias.detach() + 1)
    seen.add(fingerprint.decoder_fingerprint(codec))
    g_s.weight.data.add_(1)  # not even torch sees this one
    seen.add(fingerprint.decoder_fingerprint(codec))
    assert len(seen) == 6


@pytest.mark.parametrize("where", [(0, 0), (1, 4095), (2, 4096), (2, 8999), (4, 4096)])
def test_a_change_of_any_byte_changes_the_sum_of_a_device(where):
    tensor, byte = where
    bits = [torch.randint(256, (size,), dtype=torch.uint8) for size in (5, 4096, 9000, 0, 4097)]
    before = fingerprint.weighted_sum(bits)
    assert fingerprint.weighted_sum([x.clone() for x in bits]) == before
    bits[tensor][byte] += 1
    assert fingerprint.weighted_sum(bits) != before


def test_tensors_that_change_places_change_the_sum_of_a_device():
    first, second = (torch.randint(256, (8192,), dtype=torch.uint8) for _ in range(2))
    assert fingerprint.weighted_sum([first, second]) != fingerprint.weighted_sum([second, first])
