"""Whole models under offloading, sharding and replicas: the same values and gradients as without."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.utils import prune
from wrappers import Wrapper, sharded, sharded_at_once

from ssmctx import ImageCodec, MambaICEntropyModel, registry
from ssmctx.entropy.factorized_prior import FactorizedPrior
from ssmctx.errors import ArgumentError, ModelMismatchError
from ssmctx.testing.registered import M, make_small


def small(context: str) -> nn.Module:
    made = make_small(registry.contexts, context)
    if context == "released":  # its layers are wide whatever the latent's width
        for layers in (made.mean_support, made.scale_support, made.mean_head, made.scale_head):
            for k in range(len(layers)):
                layers[k] = nn.Identity()
    return made


def model(context: str = "channel-spatial", **options) -> MambaICEntropyModel:
    torch.manual_seed(0)
    made = MambaICEntropyModel(M, hyper_channels=6, N=4, context=small(context), **options).eval()
    made.update()
    return made


def codec() -> ImageCodec:
    torch.manual_seed(1)
    return ImageCodec(nn.Conv2d(3, M, 16, stride=16), nn.ConvTranspose2d(M, 3, 16, stride=16), model()).eval()


def latent(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def flat(out: dict) -> dict[str, torch.Tensor]:
    return {**{k: v for k, v in out.items() if k != "likelihoods"}, **out["likelihoods"]}


OFFLOADS = {
    "cpu_offload": lambda m, _: accelerate().cpu_offload(m, execution_device="cpu"),
    "with buffers": lambda m, _: accelerate().cpu_offload(m, execution_device="cpu", offload_buffers=True),
    "prior at once": lambda m, _: accelerate().cpu_offload(
        m, execution_device="cpu", preload_module_classes=["FactorizedPrior"]
    ),
    "disk": lambda m, folder: accelerate().disk_offload(m, folder, execution_device="cpu"),
    "dispatched": lambda m, folder: accelerate().dispatch_model(
        m, {"": "cpu", "context": "disk", "entropy_bottleneck": "disk"}, main_device="cpu", offload_dir=folder
    ),
}


def accelerate():
    return pytest.importorskip("accelerate")


@torch.no_grad()
@pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS)
def test_an_offloaded_model_codes_as_before(offload, tmp_path):
    plain, y = model(qualities=2), latent(2, M, 5, 7)
    offloaded = offload(copy.deepcopy(plain), tmp_path)
    for (name, one), other in zip(flat(offloaded(y, 0.5)).items(), flat(plain(y, 0.5)).values(), strict=True):
        assert torch.equal(one, other), name
    coded, expected = offloaded.compress(y, 0.5), plain.compress(y, 0.5)
    assert coded["strings"] == expected["strings"]
    assert torch.equal(offloaded.decompress(coded["strings"], coded["shape"])["y_hat"], expected["y_hat"])
    torch.testing.assert_close(offloaded.aux_loss(), plain.aux_loss())
    likelihood = [m.entropy_bottleneck.likelihood(y[:, :6]) for m in (offloaded, plain)]
    assert torch.equal(*likelihood)


@torch.no_grad()
@pytest.mark.parametrize("name", registry.contexts.names())
def test_every_context_works_offloaded(name):
    plain, y = model(name), latent(1, M, 3, 5)
    offloaded = accelerate().cpu_offload(copy.deepcopy(plain), execution_device="cpu")
    for one, other in zip(flat(offloaded(y)).values(), flat(plain(y)).values(), strict=True):
        assert torch.equal(one, other)


def test_what_needs_the_weights_themselves_is_refused_where_they_are_elsewhere():
    whole, x = codec(), torch.randint(256, (3, 20, 33), dtype=torch.uint8)
    data = whole.encode(x)
    offloaded = accelerate().cpu_offload(copy.deepcopy(whole), execution_device="cpu")
    coded = offloaded.compress(x[None] / 255)
    assert torch.equal(
        offloaded.decompress(coded["strings"], coded["shape"])["x_hat"], whole(x[None] / 255)["x_hat"].clamp(0, 1)
    )
    for call in (lambda: offloaded.encode(x), lambda: offloaded.decode(data)):
        with pytest.raises(
            ArgumentError, match=r"hash of the decoder's weights, .* offloaded, sharded or packed .*: use compress"
        ):
            call()
    with pytest.raises(ArgumentError, match=r"update\(\) needs all weights, and some are offloaded or sharded"):
        offloaded.update(force=True)


@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantization_codes_streams_and_refuses_files():
    quantized = torch.ao.quantization.quantize_dynamic(codec().eval(), {nn.Linear}, dtype=torch.qint8)
    assert any("quantized" in type(m).__module__ for m in quantized.modules())
    x = torch.randint(256, (3, 20, 33), dtype=torch.uint8)
    coded = quantized.compress(x[None] / 255)
    decoded = quantized.decompress(coded["strings"], coded["shape"])["x_hat"]
    assert torch.equal(decoded, quantized(x[None] / 255)["x_hat"].clamp(0, 1))
    with pytest.raises(ArgumentError, match="packed by quantization: use compress and decompress"):
        quantized.encode(x)


def gradients(module: nn.Module, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], list[torch.Tensor | None]]:
    torch.manual_seed(3)
    out = flat(module(x))
    sum(value.square().sum() for value in out.values()).backward()
    getattr(module, "module", module).aux_loss().backward()
    found = [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad for p in module.parameters()]
    return out, found


WRAPPERS = {
    "FSDP2, each": sharded,
    "FSDP2, at once": sharded_at_once,
    "DDP": lambda m: nn.parallel.DistributedDataParallel(m, find_unused_parameters=True),
    "DataParallel": nn.DataParallel,
}


def check_training(module: nn.Module, wrap, x: torch.Tensor) -> None:
    out, found = gradients(wrap(copy.deepcopy(module.train())), x)
    expected, wanted = gradients(module, x)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, msg=lambda m, name=name: f"{name}: {m}")
    for (name, _), one, other in zip(module.named_parameters(), found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize(
    ("name", "wrap"),
    [pytest.param(n, WRAPPERS[w], id=f"{n}-{w}") for w in WRAPPERS for n in registry.contexts.names()],
)
def test_wrapped_models_train_as_before(name, wrap):
    check_training(model(name), wrap, latent(2, M, 3, 5))


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_scale_networks_train_and_code_as_before(wrap):
    plain, y = model("none", scales="integer"), latent(2, M, 3, 5)
    check_training(plain, wrap, y)
    coded = plain.eval().compress(y)
    plain.scale_network.head[0] = torch.compile(plain.scale_network.head[0], backend="eager")
    assert plain.compress(y)["strings"] == coded["strings"]
    offloaded = accelerate().cpu_offload(copy.deepcopy(plain), execution_device="cpu")
    with torch.no_grad():
        assert torch.equal(offloaded(y)["likelihoods"]["y"], plain(y)["likelihoods"]["y"])
    assert offloaded.compress(y)["strings"] == coded["strings"]
    with pytest.raises(ArgumentError, match=r"ScaleNetwork: update\(\) needs all weights, and some are offloaded"):
        offloaded.scale_network.update(force=True)


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_codecs_train_as_before(wrap):
    check_training(codec(), wrap, torch.rand(2, 3, 40, 50))


@torch.no_grad()
@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("wrap", [sharded, sharded_at_once])
def test_a_sharded_model_codes_as_before(wrap):
    plain, y = model(), latent(1, M, 5, 7)
    whole = wrap(copy.deepcopy(plain))
    for name in ("compress", "decompress"):
        register_fsdp_forward_method(whole, name)
    coded = whole.compress(y)
    assert coded["strings"] == plain.compress(y)["strings"]
    assert torch.equal(whole.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])
    with pytest.raises(ArgumentError, match=r"update\(\) needs all weights, and some are offloaded or sharded"):
        whole.update(force=True)


@pytest.mark.parametrize("wrap", [Wrapper, nn.DataParallel])
def test_a_wrapper_that_hides_what_a_part_is_asked_is_refused(wrap):
    whole = codec()
    latent_codec, image = whole.latent_codec, torch.zeros(3, 16, 16, dtype=torch.uint8)
    for name in ("entropy_bottleneck", "context", "y_tables"):
        with pytest.raises(ArgumentError, match=rf"MambaICEntropyModel: {name} needs .*, and {wrap.__name__} has none"):
            setattr(latent_codec, name, wrap(getattr(latent_codec, name)))
    whole.latent_codec = wrap(latent_codec)
    assert whole(image[None] / 255)["x_hat"].shape == (1, 3, 16, 16)  # training needs no more than that
    with pytest.raises(
        ArgumentError, match=rf"latent_codec is a {wrap.__name__}, which has no compress: wrap the whole"
    ):
        whole.encode(image)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")], ids=["DP", "compile"])
def test_wrapped_parts_write_and_read_the_same_files(wrap):
    whole, x = codec(), torch.randint(256, (3, 20, 33), dtype=torch.uint8)
    data = whole.encode(x)
    wrapped = copy.deepcopy(whole)
    wrapped.g_s = wrap(wrapped.g_s)
    wrapped.latent_codec.h_s.means[1] = wrap(wrapped.latent_codec.h_s.means[1])
    wrapped.latent_codec.h_s = wrap(wrapped.latent_codec.h_s)
    assert wrapped.encode(x) == data
    assert torch.equal(wrapped.decode(data), whole.decode(data))
    wrapped.g_s.get_parameter(next(name for name, _ in wrapped.g_s.named_parameters())).data += 1
    with pytest.raises(ModelMismatchError):
        wrapped.decode(data)


@pytest.mark.parametrize("name", ["matrices", "biases", "factors"])
def test_pruned_and_parametrised_priors_are_used_as_they_are(name):
    prior, z = FactorizedPrior(3).eval(), latent(2, 3, 4)
    plain = copy.deepcopy(prior)
    prune.random_unstructured(getattr(prior, name), "1", 0.5)
    getattr(plain, name)[1].data *= getattr(getattr(prior, name), "1_mask")
    getattr(prior, name).get_parameter("1_orig").data *= 2
    getattr(plain, name)[1].data *= 2
    assert torch.equal(prior(z)[1], plain(z)[1])
    for one in (prior, plain):
        one.update(force=True)
    assert prior.tables().fingerprint() == plain.tables().fingerprint()


def test_pruned_quantiles_still_learn():
    whole = codec()
    prune.identity(whole.latent_codec.entropy_bottleneck, "quantiles")
    whole.aux_loss().backward()
    assert whole.latent_codec.entropy_bottleneck.quantiles_orig.grad.abs().sum() > 0
