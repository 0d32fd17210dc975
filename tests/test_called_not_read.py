"""Modules are called, never read: what wraps, watches, prunes, quantises or shards a part of a layer takes effect."""

from __future__ import annotations

import copy
import functools
import warnings

import pytest
import torch
from models import M, context, latent
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.tensor import DTensor
from torch.nn.utils import parametrizations, prune
from wrappers import Wrapper, sharded

from ssmctx import VSSBlock, WindowLocalAttention, registry
from ssmctx.layers import vss
from ssmctx.layers.checkerboard import CheckerboardConv2d
from ssmctx.layers.foundation import TransformerBlock


class Adapter(Wrapper):
    """Adds a term to the output, as LoRA does."""

    def forward(self, *args, **kwargs):
        out = self.module(*args, **kwargs)
        return [o + o.abs() for o in out] if isinstance(out, list) else out + out.abs()


class SharesOutTheBatch(Wrapper):
    """As DataParallel on two devices: every tensor is cut along its first dimension."""

    def forward(self, *args, **kwargs):
        def half(x, i):
            if isinstance(x, (list, tuple)):
                return type(x)(half(part, i) for part in x)
            return x.tensor_split(2)[i] if isinstance(x, torch.Tensor) else x

        parts = [
            self.module(*(half(x, i) for x in args), **{k: half(x, i) for k, x in kwargs.items()}) for i in range(2)
        ]
        return torch.cat(parts)


def layers() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(3)
    x = torch.randn(2, 6, 9, 11)
    attention = WindowLocalAttention(6, window_size=4, num_heads=2)
    return {"vss": (VSSBlock(6, d_state=3), x), "attention": (attention, x), "transformer": (TransformerBlock(6), x)}


PARTS = [
    *(("vss", name) for name in ("norm", "in_proj", "conv", "scan", "out_norm", "out_proj")),
    *(("attention", name) for name in ("norm", "qkv", "proj")),
]


@pytest.fixture(params=[False, True], ids=["whole", "in parts"])
def _walked(request, monkeypatch):
    if request.param:
        limits = {"_LARGE": {"elsewhere": 11}, "_BAND": {"elsewhere": 20}, "_LEAST_ROWS": 2, "_GROUP": 5}
        for name, value in limits.items():
            monkeypatch.setattr(vss, name, value)


@pytest.mark.usefixtures("_walked")
@pytest.mark.parametrize(("layer", "part"), PARTS)
def test_a_part_that_is_wrapped_is_called(layer, part):
    module, x = layers()[layer]
    with torch.no_grad():
        before = module(x)
        setattr(module, part, Wrapper(getattr(module, part)))
        assert torch.equal(module(x), before)
        setattr(module, part, Adapter(getattr(module, part)))
        assert not torch.allclose(module(x), before)


@pytest.mark.usefixtures("_walked")
@pytest.mark.parametrize(("layer", "part"), PARTS)
def test_hooks_see_whole_outputs_and_inputs_that_stay(layer, part):
    module, x = layers()[layer]
    held = getattr(module, part)
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    held.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
    with torch.no_grad():
        module(x)
        calls, seen = [], calls
        for given, output in seen:
            assert given.numel()
            assert torch.equal(held.forward(given), output)  # nobody wrote over what it was handed
    widths = {"in_proj": 24, "qkv": 18, "scan": 12}
    assert all(output.shape[-1] == widths.get(part, output.shape[-1]) for _, output in seen)


@pytest.mark.usefixtures("_walked")
@pytest.mark.parametrize("kind", ["forward_pre", "full_backward_pre", "full_backward"])
@pytest.mark.parametrize(("layer", "part"), PARTS)
def test_other_hooks_get_whole_tensors(layer, part, kind):
    module, x = layers()[layer]
    seen: list[tuple[torch.Tensor, ...]] = []
    getattr(getattr(module, part), f"register_{kind}_hook")(lambda _, given, *rest: seen.append(given))
    module(x.requires_grad_()).square().sum().backward()
    assert seen
    assert all(isinstance(tensor, torch.Tensor) for given in seen for tensor in given)


@pytest.mark.usefixtures("_walked")
@pytest.mark.parametrize(("layer", "part"), [("vss", "in_proj"), ("attention", "qkv")])
def test_weight_norm_of_the_old_kind_and_pruning_take_effect(layer, part):
    module, x = layers()[layer]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(getattr(module, part))
    getattr(module, part).weight_g.data *= 2
    plain, _ = layers()[layer]
    getattr(plain, part).weight.data *= 2
    torch.testing.assert_close(module(x), plain(x))
    module, _ = layers()[layer]
    prune.random_unstructured(getattr(module, part), "weight", 0.9)
    plain.load_state_dict(layers()[layer][0].state_dict())
    getattr(plain, part).weight.data *= getattr(module, part).weight_mask
    torch.testing.assert_close(module(x), plain(x))
    getattr(module, part).weight_orig.data.zero_()
    getattr(plain, part).weight.data.zero_()
    torch.testing.assert_close(module(x), plain(x))


@pytest.mark.parametrize(
    ("layer", "holder", "name"), [("vss", "in_proj", "weight"), ("vss", "scan", "D"), ("attention", "qkv", "weight")]
)
def test_parametrisations_take_effect(layer, holder, name):
    module, x = layers()[layer]
    parametrizations.weight_norm(getattr(module, holder), name)
    parametrized = getattr(module, holder).parametrizations[name]
    before = module(x)
    parametrized.original0.data *= 3
    assert not torch.allclose(module(x), before)


@pytest.mark.parametrize("layer", ["vss", "attention", "transformer"])
def test_dynamic_quantisation_of_linear_layers(layer):
    module, x = layers()[layer]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(module.eval(), {nn.Linear}, dtype=torch.qint8)
        with torch.no_grad():
            assert any("quantized" in type(m).__module__ for m in quantised.modules())
            torch.testing.assert_close(quantised(x), module(x), rtol=0.1, atol=0.1)


WRAPPERS = {
    "wrapper": Wrapper,
    "data parallel": nn.DataParallel,
    "two devices": SharesOutTheBatch,
    "checkpoint": checkpoint_wrapper,
    "compiled": functools.partial(torch.compile, backend="eager"),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("part", [0, 1, 3, None], ids=["attention", "first", "last", "whole"])
def test_wrappers_of_the_head_change_nothing(part, wrap):
    model, y_hat, side = context(), latent(0, 2, M, 7, 10), latent(1, 2, 2 * M, 7, 10)
    wrapped = copy.deepcopy(model)
    for k, head in enumerate(wrapped.head):
        if part is None:
            wrapped.head[k] = wrap(head)
        else:
            head[part] = wrap(head[part])
    for step in (0, 3):
        for one, other in zip(wrapped(step, y_hat, side), model(step, y_hat, side), strict=True):
            torch.testing.assert_close(one, other)


def test_the_attention_of_a_head_can_be_taken_out_by_identity():
    model, y_hat, side = context(), latent(0, 2, M, 7, 10), latent(1, 2, 2 * M, 7, 10)
    without = context(window_size=None)
    without.load_state_dict(model.state_dict(), strict=False)
    for head in model.head:
        head[0] = nn.Identity()
    now = model.order.positions(3, (7, 10))
    for one, other in zip(model(3, y_hat, side), without(3, y_hat, side), strict=True):
        torch.testing.assert_close(one[..., now], other[..., now])


@pytest.mark.parametrize("assign", [False, True])
def test_layers_made_on_the_meta_device_work_once_loaded(assign):
    makers = {
        "vss": lambda: VSSBlock(6, d_state=3),
        "attention": lambda: WindowLocalAttention(6, 4, shift=True),
        "checkerboard": lambda: CheckerboardConv2d(6, 6),
        "transformer": lambda: TransformerBlock(6),
    }
    x = torch.randn(2, 6, 9, 11)
    for name, make in makers.items():
        real = make()
        with torch.device("meta"):
            module = make()
        if not assign:
            module = module.to_empty(device="cpu")
            for tensor in (*module.parameters(), *module.buffers()):  # memory as bad as it can be
                tensor.data.fill_(7 if not tensor.is_floating_point() else float("nan"))
        module.load_state_dict(real.state_dict(), assign=assign)
        assert torch.equal(module(x), real(x)), name


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("wrap", [sharded, nn.parallel.DistributedDataParallel], ids=["FSDP2", "DDP"])
@pytest.mark.parametrize("name", registry.blocks.names())
def test_sharded_blocks_give_the_same_values_and_gradients(name, wrap):
    module = registry.blocks.create(name, 8)
    wrapped = wrap(copy.deepcopy(module))
    x = torch.randn(2, 8, 9, 11, requires_grad=True)
    for _ in range(2):  # weights are gathered anew
        y, expected = wrapped(x), module(x)
        torch.testing.assert_close(y, expected)
    gradients = torch.autograd.grad(expected.square().sum(), [x, *module.parameters()])
    x.grad = None
    y.square().sum().backward()
    actual = [x.grad, *(p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad for p in wrapped.parameters())]
    for a, e in zip(actual, gradients, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", registry.blocks.names())
def test_offloaded_blocks_give_the_same_values(name):
    accelerate = pytest.importorskip("accelerate")
    module, x = registry.blocks.create(name, 8), torch.randn(2, 8, 9, 11)
    offloaded = accelerate.cpu_offload(copy.deepcopy(module), execution_device="cpu")
    with torch.no_grad():
        assert torch.equal(offloaded(x), module(x))
