"""The released checkpoint: golden vectors, every name and shape, safe loading, and errors that say what is wrong."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from released import SIZES, filler, released_state_dict

from ssmctx.compat.released import ReleasedMambaIC, convert_state_dict, load_released, released_sizes
from ssmctx.compat.released_keys import released_layout
from ssmctx.distributions import Gaussian
from ssmctx.entropy.steps import coding_steps, drive
from ssmctx.errors import CheckpointError
from ssmctx.layers.gated_attention import GatedAttention


def error(actual, expected) -> float:
    """Largest difference over the largest expected value."""
    return float(np.abs(actual.detach().numpy() - expected).max() / np.abs(expected).max())


# --- the golden vectors


@pytest.fixture(scope="module")
def golden(shared):
    """The model of released_small.npz, its input, and what the authors' code makes of it."""
    fill, folder = filler(shared), shared / "golden"
    shapes = json.loads((folder / "released_small_manifest.json").read_text())
    fresh = ReleasedMambaIC(16, 40, (1, 1, 1, 1))
    fresh.update()
    state_dict = released_state_dict(fresh)
    for name, shape in shapes.items():
        if not fill.keep_default(name):
            state_dict[name] = torch.from_numpy(fill.weights(name, tuple(shape)))
    for name, key in released_layout(fresh).items():
        if key.same_as:  # the rule fills both names of one module; the golden run had what it loaded last
            state_dict[name] = state_dict[key.same_as]
    x = torch.from_numpy(fill.image("small-x", (1, 3, 256, 256)))
    return load_released({"state_dict": state_dict}), x, np.load(folder / "released_small.npz")


@torch.no_grad()
def test_the_codec_gives_the_golden_image_and_latents(golden):
    model, x, expected = golden
    y = model.g_a(x)
    out = model(x)
    assert error(y, expected["y"]) < 1e-5
    assert error(model.latent_codec.h_a(y), expected["z"]) < 1e-5
    assert error(out["x_hat"], expected["x_hat"]) < 1e-4
    assert error(out["likelihoods"]["z"], expected["z_likelihoods"]) < 1e-5
    # ours are those of the tabled scales, as they are coded; theirs of the scales themselves
    bits = [float(-np.log2(p).sum()) for p in (out["likelihoods"]["y"].numpy(), expected["y_likelihoods"])]
    assert bits[0] == pytest.approx(bits[1], rel=1e-3)


@torch.no_grad()
def test_means_and_scales_give_the_golden_likelihoods(golden):
    model, x, expected = golden
    codec, y = model.latent_codec, model.g_a(x)
    medians = codec.entropy_bottleneck.quantiles[None, :, :1, 1:2].transpose(1, 2).view(1, -1, 1, 1)
    z_hat = torch.round(codec.h_a(y) - medians) + medians
    likelihood = torch.zeros_like(y)

    def quantised(step):
        q = torch.round(y[:, step.channels] - step.mean)
        untabled = Gaussian().likelihood(q, codec.scale_bound(step.scale))
        likelihood[:, step.channels] += untabled * step.positions
        return q

    drive(coding_steps(codec.context, codec.h_s(z_hat)), quantised)
    assert error(likelihood, expected["y_likelihoods"]) < 1e-4
    relative = np.abs(likelihood.numpy() / expected["y_likelihoods"] - 1)
    assert relative.max() < 5e-3  # the rarest symbols, of likelihood 1e-8, are the most sensitive
    assert np.median(relative) < 1e-5


def test_gated_attention_gives_the_golden_vector(shared):
    fill = filler(shared)
    layer = GatedAttention(80).eval()
    model = ReleasedMambaIC(2, 80, (0, 0, 0, 0), num_slices=1, hyper_channels=2, d_state=1)
    ours = "latent_codec.context.mean_support.0."
    with torch.no_grad():
        for name, key in released_layout(model).items():
            if key.ours and key.ours.startswith(ours):
                weight = layer.get_parameter(key.ours.removeprefix(ours))
                leaf = name.removeprefix("atten_mean.0.0.")
                weight.copy_(torch.from_numpy(fill.weights(f"swatten80.{leaf}", key.shape)))
        y = layer(torch.from_numpy(fill.normal("swatten-in-80-16-24", (1, 80, 16, 24))))
    assert error(y, np.load(shared / "golden" / "blocks.npz")["swatten_c80_h16_w24/y"]) < 1e-5


def test_every_name_and_shape_of_the_published_checkpoint_maps(shared):
    shapes = json.loads((shared / "golden" / "released_full_manifest.json").read_text())
    checkpoint = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with torch.device("meta"):
        model = ReleasedMambaIC()
    converted = convert_state_dict(checkpoint)
    expected = {name: tuple(v.shape) for name, v in model.state_dict().items() if "y_tables" not in name}
    assert {name: tuple(v.shape) for name, v in converted.items()} == expected
    assert set(released_layout(model)) == set(shapes)


# --- conversion


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    return ReleasedMambaIC(**SIZES).eval()


@pytest.fixture
def checkpoint(model):
    return released_state_dict(model)


def alike(a, b) -> bool:
    mine, yours = a.state_dict(), b.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(value, yours[name]) for name, value in mine.items())


@pytest.mark.parametrize("wrap", ["plain", "module.", "module.module.", "state_dict", "file"])
def test_a_checkpoint_loads_however_it_is_wrapped(model, checkpoint, wrap, tmp_path):
    if wrap.startswith("module."):
        source = {wrap + name: value for name, value in checkpoint.items()}
    else:
        source = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in checkpoint.items()}}
        source = source if wrap != "plain" else checkpoint
    if wrap == "file":
        torch.save(source, tmp_path / "x.pth.tar")
        source = tmp_path / "x.pth.tar"
    expected = copy.deepcopy(model)
    expected.update()
    loaded = load_released(source)
    assert alike(loaded, expected)
    assert not loaded.training
    if wrap == "file":
        x = torch.rand(1, 3, 20, 20)
        assert loaded.compress(x)["strings"] == expected.compress(x)["strings"]


def test_tables_of_z_in_a_checkpoint_are_kept(model):
    updated = copy.deepcopy(model)
    updated.update()
    updated.latent_codec.entropy_bottleneck._offset[0] -= 1  # not what update() would build
    loaded = load_released(released_state_dict(updated))
    assert alike(loaded, updated)


def test_sizes_are_read_off_the_shapes(checkpoint):
    assert released_sizes(checkpoint) == SIZES
    assert released_sizes({})["depths"] == (2, 2, 9, 2)


# --- what must not load


def refused(source) -> str:
    with pytest.raises(CheckpointError) as caught:
        convert_state_dict(source)
    return str(caught.value)


def test_errors_list_what_does_not_fit(checkpoint):
    checkpoint["g_a.9.weight_x"] = torch.zeros(1)
    checkpoint["lrp_transforms.0.2.weight"] = torch.zeros(128, 224, 3)
    for name in [name for name in checkpoint if name.startswith("anchor_atten_scale.1.0.conv_b.0.")]:
        del checkpoint[name]
    message = refused(checkpoint)
    assert "released layout with N=2, M=4, depths=(1, 0, 2, 1), num_slices=2, hyper_channels=3, d_state=2: " in message
    assert "6 missing: anchor_atten_scale.1.0.conv_b.0.conv.0.weight, " in message
    assert " and 3 more; 1 unexpected: g_a.9.weight_x; " in message
    assert "; 1 mis-shaped: lrp_transforms.0.2.weight (128, 224, 3) instead of (128, 224, 3, 3)" in message


@pytest.mark.parametrize(
    "name", ["context_vss_2.1.op.Ds", "atten_scale.0.0.in_conv.weight", "cc_mean_transforms.0.4.bias"]
)
def test_keys_that_are_stored_and_not_used_are_checked_too(checkpoint, name):
    value = checkpoint.pop(name)
    assert f"1 missing: {name}" in refused(checkpoint)
    checkpoint[name] = torch.zeros(7, *value.shape)
    assert f"1 mis-shaped: {name} {(7, *value.shape)} instead of {tuple(value.shape)}" in refused(checkpoint)


def test_what_is_stored_twice_must_agree(checkpoint):
    checkpoint["context_vss_1.2.bias"] = checkpoint["context_vss_1.2.bias"] + 1
    checkpoint["context_prediction.1.mask"] = 1 - checkpoint["context_prediction.1.mask"]
    message = refused(checkpoint)
    assert "2 contradictory: " in message
    assert "context_vss_1.2.bias, which must equal context_vss.0.2.bias" in message
    assert "context_prediction.1.mask, which must equal the checkerboard" in message


def test_other_checkpoints(model, checkpoint):
    message = refused({"conv.weight": torch.zeros(1)})
    assert "with N=128, M=320, depths=(2, 2, 9, 2)" in message
    assert message.endswith("; 1 unexpected: conv.weight")
    assert "looks like one of ssmctx, which load_state_dict takes" in refused(model.state_dict())
    assert "holds no state dict but list: []" in refused([])
    assert "holds no state dict but dict: {}" in refused({"state_dict": {}})
    assert "holds tensors by name; 'epoch' do not fit" in refused({"epoch": 3})
    checkpoint["context_prediction.2.weight"] = checkpoint["context_prediction.0.weight"]
    message = refused(checkpoint)  # three slices of four channels cannot be
    assert "with N=128, M=320" in message
    assert "mis-shaped: g_a.0.weight (4, 3, 5, 5) instead of (256, 3, 5, 5), " in message


def test_absurd_sizes_cost_nothing(checkpoint):
    for name in ("entropy_bottleneck.quantiles", "g_a.0.weight"):
        huge = torch.zeros(1).expand(10**12, *checkpoint[name].shape[1:])
        assert " mis-shaped: " in refused({**checkpoint, name: huge})


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, 2))], ids=["zip", "pickle"]
)
def test_no_code_in_a_file_runs(save, tmp_path, checkpoint):
    save({"state_dict": checkpoint, "extra": Hostile(tmp_path / "ran")}, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"x\.pth is damaged, or contains more than weights \(UnpicklingError\); if"
    ):
        load_released(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut"])
def test_damaged_files(content, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged, or contains more than weights"):
        load_released(tmp_path / "x.pth")
    with pytest.raises(FileNotFoundError):
        load_released(tmp_path / "none.pth")
