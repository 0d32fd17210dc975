"""Law 9: coding leaves no trace in the process, and two threads that code see nothing of each other."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import context, latent
from torch import nn

from ssmctx import MambaICEntropyModel
from ssmctx.entropy import coding_numerics
from ssmctx.entropy.switches import evaluation_mode, full_precision

HAS_PRECISIONS = hasattr(torch.backends, "fp32_precision")  # torch 2.9
FLAGS = ("enabled", "benchmark", "deterministic")


def entropy_model():
    model = MambaICEntropyModel(10, hyper_channels=4, N=2, context=context()).eval()
    model.update()
    return model


def old_switches():
    """What the older interface says; raises where torch finds the two interfaces mixed."""
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


def new_switches():
    backends = torch.backends
    owners = [backends, backends.cudnn, backends.mkldnn, backends.cuda.matmul, backends.cudnn.conv]
    owners += [backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    return [owner.fp32_precision for owner in owners]


def switches():
    flags = [getattr(torch.backends.cudnn, flag) for flag in FLAGS]
    return [*flags, *(new_switches() if HAS_PRECISIONS else old_switches())]


@pytest.fixture(autouse=True)
def _tf32_allowed():
    """As a training script leaves it, so that full precision is a change that can be seen."""
    before = switches()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = before[1]


def products_are_full():
    if HAS_PRECISIONS:
        return (
            torch.backends.cuda.matmul.fp32_precision == "ieee" and torch.backends.cudnn.conv.fp32_precision == "ieee"
        )
    return torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32


@st.composite
def interleavings(draw):
    """Who enters and who leaves, in any order: each number comes twice."""
    return draw(st.permutations([*range(4), *range(4)]))


@given(turns=interleavings())
def test_whoever_is_inside_has_full_precision_and_afterwards_all_is_as_before(turns):
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    modes = [part.training for part in module.modules()]
    before, inside = switches(), {}
    for turn in turns:
        if turn in inside:
            inside.pop(turn).__exit__(None, None, None)
        else:
            inside[turn] = coding_numerics(module)
            inside[turn].__enter__()
        if inside:
            assert products_are_full()
            assert [getattr(torch.backends.cudnn, flag) for flag in FLAGS] == [True, False, True]
            assert not any(part.training for part in module.modules())
    assert switches() == before
    assert [part.training for part in module.modules()] == modes
    with coding_numerics(module.train()):  # nothing that was known inside holds any longer
        assert not any(part.training for part in module.modules())


def test_two_threads_that_enter_and_leave_in_turns():
    """A in, B in, A out, B out."""
    module = nn.Sequential(nn.Dropout()).train()
    before = switches()
    a_in, b_in, a_out = threading.Event(), threading.Event(), threading.Event()
    seen = {}

    def first():
        with coding_numerics(module):
            a_in.set()
            assert b_in.wait(60)
        seen["after a"] = (products_are_full(), module.training, module[0].training)
        a_out.set()

    def second():
        assert a_in.wait(60)
        with coding_numerics(module):
            b_in.set()
            assert a_out.wait(60)
            seen["inside b"] = (products_are_full(), module.training, module[0].training)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == {"after a": (True, False, False), "inside b": (True, False, False)}
    assert switches() == before
    assert module.training
    assert module[0].training


def test_a_model_in_train_mode_that_two_threads_share_codes_in_evaluation_mode():
    model, y = entropy_model().train(), latent(1, 1, 10, 9, 9)
    model.context.register_module("noise", nn.Dropout(0.5))
    forward = model.context.forward

    def noisy(step, y_hat, side, state=None):  # wrong in train mode, so that a thread that codes in it is seen
        mean, scale = forward(step, y_hat, side, state)
        return model.context.noise(mean), scale

    model.context.forward = noisy
    expected, results, before = model.compress(y)["strings"], [], switches()

    def work():
        for _ in range(4):
            coded = model.compress(y)
            decoded = model.decompress(coded["strings"], coded["shape"])["y_hat"]
            results.append(coded["strings"] == expected and torch.equal(decoded, coded["y_hat"]))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert results == [True] * 12
    assert all(part.training for part in model.modules())
    assert switches() == before


def test_an_error_inside_leaves_everything_as_before():
    before, module = switches(), nn.Dropout().train()
    with pytest.raises(ZeroDivisionError), coding_numerics(module):
        raise ZeroDivisionError
    assert switches() == before
    assert module.training


def test_evaluation_mode_nests_also_over_parts_that_are_shared():
    shared, outer, inner = nn.Dropout(), nn.Sequential(), nn.Sequential().eval()
    outer.extend([shared, nn.Dropout().eval()])
    inner.append(shared)
    with evaluation_mode(outer):
        with evaluation_mode(inner), evaluation_mode(outer):
            assert not shared.training
        assert not shared.training
        assert not outer.training
    assert [part.training for part in (outer, *outer, inner)] == [True, True, False, False]


def test_evaluation_mode_keeps_no_module_alive():
    from ssmctx.entropy import switches as module

    with evaluation_mode(nn.Dropout()):
        pass
    assert not len(module._evaluating)


def test_full_precision_nests():
    before = switches()
    with full_precision():
        with full_precision():
            assert products_are_full()
        assert products_are_full()
    assert switches() == before


# --- set beforehand in every way; in a process of its own, since torch does not let interfaces be mixed

_OWNERS = ("", ".cuda.matmul", ".cudnn", ".cudnn.conv", ".cudnn.rnn", ".mkldnn", ".mkldnn.matmul", ".mkldnn.conv")
_NEW = [
    f"torch.backends{owner}.fp32_precision = {value!r}"
    for owner, value in itertools.product(_OWNERS, ("ieee", "tf32", "none"))
]
_NEW += [f"torch.backends{owner}.fp32_precision = 'bf16'" for owner in (".mkldnn", ".mkldnn.matmul", ".mkldnn.conv")]
_OLD = [f"torch.set_float32_matmul_precision({value!r})" for value in ("highest", "high", "medium")]
_OLD += [
    f"torch.backends.{owner}.allow_tf32 = {value}"
    for owner, value in itertools.product(("cuda.matmul", "cudnn"), (True, False))
]

_PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
sys.path[:0] = {path!r}
from test_switches import FLAGS, HAS_PRECISIONS, new_switches, old_switches, products_are_full
from models import latent
from test_switches import entropy_model
model, y = entropy_model(), latent(1, 1, 10, 3, 4)

def state():
    flags = [getattr(torch.backends.cudnn, flag) for flag in FLAGS]
    new = new_switches() if HAS_PRECISIONS else None
    try:
        old = old_switches()
    except RuntimeError as error:  # torch refuses to read one interface after the other was used
        old = "mixed"
    return flags, new, old

seen = []
hook = model.context.register_forward_hook(lambda *_: seen.append(products_are_full()))
defaults = state()
expected = model.compress(y)["strings"]
assert state() == defaults, ("unset", defaults, state())
for setting in {settings!r}:
    exec(setting)
    before, seen = state(), []
    coded = model.compress(y)
    assert coded["strings"] == expected, setting
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"]), setting
    assert seen and all(seen), (setting, seen)
    assert state() == before, (setting, before, state())
    exec(setting)  # as it may be set again
print("done")
"""


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(_NEW, marks=pytest.mark.skipif(not HAS_PRECISIONS, reason="torch 2.9 has these"), id="new"),
        pytest.param(_OLD, id="old"),
        pytest.param(
            [*_OLD, *_NEW], marks=pytest.mark.skipif(not HAS_PRECISIONS, reason="torch 2.9 has these"), id="mixed"
        ),
    ],
)
def test_precision_set_before_in_any_way_stays_as_it_was(settings):
    program = _PROGRAM.format(path=[path for path in sys.path if path], settings=settings)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "done"
