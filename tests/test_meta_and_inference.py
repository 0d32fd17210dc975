"""Whole models made on the meta device or inside inference_mode code like any other."""

import copy

import pytest
import torch
from torch import nn

from ssmctx import ImageCodec, MambaICEntropyModel, registry

M = 20


def make(context, **changes):
    torch.manual_seed(0)
    options = {"M": M, "hyper_channels": 4, "N": 2, "qualities": 2, "distribution": "laplace", **changes}
    return MambaICEntropyModel(context=registry.contexts.create_with(context, M, d_state=2), **options).eval()


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("context", registry.contexts.names())
def test_a_model_from_the_meta_device_codes(context, assign):
    source = make(context)
    source.update()
    y = torch.randn(1, M, 5, 6)
    with torch.device("meta"):
        model = make(context)
    if not assign:
        model.to_empty(device="cpu")
    model.load_state_dict(source.state_dict(), assign=assign)
    coded = source.compress(y, quality=0.5)
    assert model.compress(y, quality=0.5)["strings"] == coded["strings"]
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])


def codes(model, y):
    coded = model.compress(y)
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])
    return coded["strings"]


def test_update_and_loading_inside_inference_mode_leave_a_model_that_codes_and_trains():
    model, y = make("channel-spatial"), torch.randn(2, M, 5, 6)
    expected = copy.deepcopy(model)
    expected.update()
    with torch.inference_mode():
        model.update()
        inside = codes(model, y)
    assert inside == codes(model, y) == codes(expected, y)
    with torch.inference_mode():
        model.load_state_dict(copy.deepcopy(expected.state_dict()))
        model.update(force=True)
    assert codes(model, y) == inside
    out = model.train()(y.requires_grad_())
    (out["y_hat"].square().sum() - out["likelihoods"]["y"].log().sum() + model.aux_loss()).backward()
    assert y.grad.isfinite().all()


def test_a_model_made_inside_inference_mode_codes_outside():
    with torch.inference_mode():
        model = make("channel-spatial")
        g_a, g_s = nn.Conv2d(3, M, 16, stride=16), nn.ConvTranspose2d(M, 3, 16, stride=16)
        codec = ImageCodec(g_a, g_s, model).eval()
        codec.update()
    codes(model, torch.randn(1, M, 5, 6))
    image = torch.randint(256, (3, 20, 30)).to(torch.uint8)
    data, y_hat = codec.encode_with_latent(image)
    assert torch.equal(codec.decode(data), codec.image_of(y_hat, (20, 30)))
