"""Inside CompressAI: the entropy model is a latent codec of its SimpleVAECompressionModel."""

import importlib
import warnings
from importlib import metadata

import compressai
import pytest
import torch
from compressai.latent_codecs import LatentCodec
from compressai.models import SimpleVAECompressionModel
from models import M, entropy_model
from torch import nn


class Codec(SimpleVAECompressionModel):
    def __init__(self):
        super().__init__()
        self.g_a = nn.Conv2d(3, M, 5, stride=4, padding=2)
        self.g_s = nn.ConvTranspose2d(M, 3, 5, stride=4, padding=2, output_padding=3)
        self.latent_codec = entropy_model()


def test_it_trains_updates_and_codes_as_any_compressai_model():
    model = Codec().train()
    assert isinstance(model.latent_codec, LatentCodec)
    x = torch.rand(2, 3, 32, 48)
    out = model(x)
    assert out["x_hat"].shape == x.shape
    assert set(out["likelihoods"]) == {"y", "z"}
    (out["x_hat"].mean() + out["likelihoods"]["y"].log().mean() + model.aux_loss()).backward()
    model.update(force=True)
    model.eval()
    with torch.no_grad():
        coded = model.compress(x)
        decoded = model.decompress(coded["strings"], coded["shape"])
        assert [len(streams) for streams in coded["strings"]] == [2, 2, 2, 2]
        expected = model.g_s(model.latent_codec(model.g_a(x))["y_hat"]).clamp(0, 1)
    assert torch.equal(decoded["x_hat"], expected)


def test_compressais_own_loading_works_before_and_after_update():
    updated = Codec()
    updated.update(force=True)
    for target in (Codec(), updated):
        target.load_state_dict(updated.state_dict())


def test_compressai_knows_our_modules():
    from compressai.registry import MODELS, MODULES

    import ssmctx
    import ssmctx.compat.compressai as compat

    assert MODULES["VSSBlock"] is ssmctx.VSSBlock
    assert {f"ssmctx.context.{name}" for name in ssmctx.registry.contexts.names()} <= set(MODULES)
    assert MODELS["mambaic"](N=4, M=20, depths=(0, 0, 0, 0), hyper_channels=6, d_state=2).latent_codec.M == 20
    compat.register()  # a second time changes nothing
    MODULES["VSSBlock"] = object
    try:
        with pytest.raises(ssmctx.errors.DuplicateNameError, match="another module called 'VSSBlock'"):
            compat.register()
    finally:
        MODULES["VSSBlock"] = ssmctx.VSSBlock


@pytest.mark.parametrize("version", ["1.2.5", "1.3.0", "2.0.0b1"])
def test_an_untested_compressai_draws_a_warning(version):
    from ssmctx.compat.compressai import _check_version

    with pytest.warns(UserWarning, match=rf"compressai {version} is not among .* 1.2.6 to 1.2.8"):
        _check_version(version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tested in ("1.2.6", "1.2.7", "1.2.8"):
            _check_version(tested)


def test_the_fork_of_another_name_is_taken_without_a_warning(monkeypatch):
    """`compressai-temp` is imported as compressai, which no distribution is called then."""
    import ssmctx.compat.compressai as compat

    def nowhere(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nowhere)
    monkeypatch.setattr(compressai, "__version__", "1.2.9.dev0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(compat)
    assert compat.MODULES is compressai.registry.MODULES
