"""CUDA graphs of the coding path: the same files and pixels, whatever comes in between.

Where there is no GPU a stand-in takes their place, which computes what it saw once more with the tensors that it saw.
"""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssmctx import ImageCodec, MambaICEntropyModel, constants, registry
from ssmctx.constants import constant, holding
from ssmctx.entropy import coding_steps, cuda_graphs, drive, graphs
from ssmctx.errors import ArgumentError
from ssmctx.stages import StageTimes, observe
from ssmctx.testing import update_tables
from ssmctx.testing.registered import make_small

M = 10


class StandIn(TorchDispatchMode):
    """Of a graph: the operators, with the tensors that they took and gave."""

    made = 0

    def __init__(self, device, memory=None):
        super().__init__()
        self.memory = memory or object()
        self._calls = []
        type(self).made += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError("operation not permitted when stream is capturing")
        self._calls.append((function, args, kwargs or {}, result))
        return result

    def record(self, run):
        with self:
            return run()

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, result in self._calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(graphs, "_Graph", StandIn)
    monkeypatch.setattr(graphs, "_recordable", lambda x: not torch.is_grad_enabled())
    monkeypatch.setattr(constants, "_tracing", lambda: False)  # a capture by CUDA is no dispatch mode
    monkeypatch.setattr(StandIn, "made", 0)


def model_of(context="channel-spatial", **options):
    torch.manual_seed(0)
    context = make_small(registry.contexts, context)
    model = MambaICEntropyModel(context.order.num_channels, context=context, hyper_channels=6, N=4, **options).eval()
    for part in model.modules():  # the operator "cpu" is none of torch's, so that the stand-in would not see it
        if hasattr(part, "scan_backend"):
            part.scan_backend = "torch"
    update_tables(model)
    return model


def squares(n, device):
    return torch.arange(n, device=device) ** 2


def latent(model, seed, size=(5, 7)):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(1, model.M, *size, generator=generator)


def coded(model, ys, **options):
    made = [model.compress(y, **options) for y in ys]
    return [(out["strings"], out["y_hat"]) for out in made], [
        model.decompress(out["strings"], out["shape"])["y_hat"] for out in made
    ]


def assert_same(first, second):
    for (a, ya), (b, yb) in zip(first[0], second[0], strict=True):
        assert a == b
        assert torch.equal(ya, yb)
    for a, b in zip(first[1], second[1], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("context", registry.contexts.names())
def test_every_context_codes_as_without_graphs(stand_in, context):
    model = model_of(context)
    ys = [latent(model, seed, (3, 5)) for seed in range(3)]
    expected = coded(model, ys)
    with cuda_graphs():
        assert_same(coded(model, ys), expected)
    assert StandIn.made > model.context.order.num_steps


def test_sizes_gains_and_changed_weights_are_told_apart(stand_in):
    model = model_of("none", qualities=3)
    small, large = [[latent(model, seed, size) for seed in range(2)] for size in ((2, 3), (3, 3))]

    def run():
        parts = [coded(model, ys, quality=q) for ys in (small, large) for q in (None, 1.5)]
        return [x for part in parts for x in part[0]], [x for part in parts for x in part[1]]

    expected = run()
    with cuda_graphs():
        assert_same(run(), expected)
        with torch.no_grad():
            for weight in model.context.parameters():
                weight.mul_(0.5)
        followed = run()
        for part in (model.context, model.h_s):  # other memory
            part.load_state_dict({k: v * 1.5 for k, v in part.state_dict().items()}, assign=True)
        replaced = run()
    assert_same(run(), replaced)
    with torch.no_grad():
        model.context.load_state_dict({k: v / 1.5 for k, v in model.context.state_dict().items()})
        model.h_s.load_state_dict({k: v / 1.5 for k, v in model.h_s.state_dict().items()})
    assert not torch.equal(followed[1][0], replaced[1][0])


def test_what_one_image_gave_stays_when_the_next_is_coded(stand_in):
    model = model_of()
    ys = [latent(model, seed) for seed in range(4)]
    with cuda_graphs(), torch.no_grad():
        kept = [drive(graphs.walked(model.context, side := torch.cat([y, y], 1)), lambda s: s.mean * 0) for y in ys]
        sides = [graphs.called(model.h_s, y[:, :6]) for y in ys]
    made = StandIn.made
    for y, walked, called in zip(ys, kept, sides, strict=True):
        with torch.no_grad():
            side = torch.cat([y, y], 1)
            assert torch.equal(drive(coding_steps(model.context, side), lambda s: s.mean * 0), walked)
            assert torch.equal(model.h_s(y[:, :6]), called)
            assert torch.equal(graphs.called(model.h_s, y[:, :6]), called)
    assert StandIn.made == made  # none outside the block


def test_what_inference_mode_records_is_replayed_outside(stand_in):
    model = model_of("none")
    ys = [latent(model, seed, (3, 5)) for seed in range(4)]
    expected = coded(model, ys)
    with cuda_graphs():
        with torch.inference_mode():
            first = coded(model, ys[:2])
        second = coded(model, ys[2:])
    assert_same([[*a, *b] for a, b in zip(first, second, strict=True)], expected)
    assert StandIn.made


def test_gradients_pass_as_without_graphs(stand_in):
    layer, x = nn.Conv2d(2, 3, 1), torch.randn(1, 2, 4, 5, requires_grad=True)
    with cuda_graphs():
        for _ in range(3):
            graphs.called(layer, x).sum().backward()
    assert x.grad is not None
    assert StandIn.made == 0


def test_stages_are_told_of_replayed_steps_too(stand_in):
    model = model_of()
    times = StageTimes("cpu")
    with cuda_graphs():
        for seed in range(2):
            model.compress(latent(model, seed))
        with observe(times):
            model.compress(latent(model, 3))
    assert {"context", "h_a", "h_s"} <= set(times.seconds)


def test_a_module_that_asks_for_values_is_refused_by_name(stand_in):
    class Asks(nn.Module):
        def forward(self, x):
            return x * float(x.sum())

    asks, x = Asks(), torch.ones(1, 2, 3, 4)
    with cuda_graphs(), torch.no_grad():
        graphs.called(asks, x)  # as always the first time
        with pytest.raises(ArgumentError, match=r"Asks cannot be recorded as a CUDA graph.*ask the GPU for no values"):
            graphs.called(asks, x)


def test_few_recordings_are_kept(stand_in, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST", 2)
    layer = nn.Conv2d(2, 3, 1)
    xs = [torch.randn(1, 2, 4, w) for w in (3, 4, 5)]
    with cuda_graphs(), torch.no_grad():
        for x in [xs[0], xs[0], xs[1], xs[1], xs[0], xs[2], xs[2], xs[0]]:
            assert torch.equal(graphs.called(layer, x), layer(x))
    assert StandIn.made == 3
    with cuda_graphs(), torch.no_grad():
        for x in [xs[0], xs[0], xs[1], xs[1], xs[2], xs[2], xs[0], xs[0]]:
            graphs.called(layer, x)
    assert StandIn.made == 7


def test_constants_that_a_recording_reads_are_held():
    with holding() as held:
        one = constant(squares, 7)
        with holding() as inner:
            other = constant(squares, 8)
        again = constant(squares, 7)
    constant(squares, 9)
    assert [x is y for x, y in zip(held, (one, again), strict=True)] == [True, True]
    assert inner[0] is other


def assert_files_are_the_same(context, device):
    model = model_of(context, qualities=2)
    if device == "cuda":
        for part in model.modules():
            if hasattr(part, "scan_backend"):
                part.scan_backend = "auto"
    g_a, g_s = nn.Conv2d(3, model.M, 16, stride=16), nn.ConvTranspose2d(model.M, 3, 16, stride=16)
    codec = ImageCodec(g_a, g_s, model).to(device).eval()
    codec.update()
    generator = torch.Generator().manual_seed(0)
    sizes = [(35, 40)] * 4 + [(32, 32)] * 3
    images = [torch.randint(0, 256, (3, *size), generator=generator).byte() for size in sizes]

    def run():
        files = [codec.encode(image, quality=0.5) for image in images]
        return files, [codec.decode(file) for file in files]

    files, pixels = run()
    with cuda_graphs():
        for _ in range(2):
            again = run()
            assert again[0] == files
            assert all(torch.equal(a, b) for a, b in zip(again[1], pixels, strict=True))


def test_files_and_pixels_are_the_same(stand_in):
    assert_files_are_the_same("none", "cpu")
    assert StandIn.made > 8  # g_a, h_a, h_s, g_s, each of two sizes, and the steps


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("context", ["channel-spatial", "carried-state", "none"])
def test_graphs_of_cuda_give_the_same_files(context):
    assert_files_are_the_same(context, "cuda")
