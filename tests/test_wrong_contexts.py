"""Contexts that are wrongly written: typed errors that name the step, and names where an object is not needed."""

from __future__ import annotations

import pytest
import torch
from models import latent
from torch import nn

from ssmctx import CodingOrder, ContextModel, MambaICEntropyModel
from ssmctx.errors import ArgumentError, NonFiniteError, ShapeError, UnknownNameError

M = 6


class Written(ContextModel):
    """Sound, until the step in which it returns something else."""

    def __init__(self, wrong, at: int = 3) -> None:
        super().__init__(CodingOrder.checkerboard([2, 4]))
        self.wrong, self.at = wrong, at

    def forward(self, step, y_hat, side, state=None):
        mean = torch.zeros_like(y_hat[:, self.order.channels(step)])
        scale = torch.ones_like(mean)
        return self.wrong(mean, scale) if step == self.at else (mean, scale)


def model_of(wrong, at=3):
    torch.manual_seed(2)
    model = MambaICEntropyModel(M, hyper_channels=3, N=2, context=Written(wrong, at)).eval()
    model.update()
    return model


def _spoilt(scale, value):
    scale = scale.clone()
    scale[0, 0] = value
    return scale


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda mean, scale: mean, ArgumentError, "Written: step 3 must return mean and scale, got Tensor"),
        (lambda mean, scale: None, ArgumentError, "Written: step 3 must return mean and scale, got NoneType"),
        (lambda mean, scale: (mean,), ArgumentError, "Written: step 3 must return mean and scale, got 1 values"),
        (
            lambda mean, scale: (mean, scale, 0),
            ArgumentError,
            "Written: step 3 must return mean and scale, got 3 values",
        ),
        (
            lambda mean, scale: {"mean": mean, "scale": scale},
            ArgumentError,
            "step 3 must return mean and scale, got dict",
        ),
        (
            lambda mean, scale: torch.cat([mean, scale], 1),
            ArgumentError,
            "step 3 must return mean and scale, got Tensor",
        ),
        (
            lambda mean, scale: (mean[..., :-1], scale),
            ShapeError,
            r"step 3 .* a mean of shape \(1, 4, 5, 7\), got \(1, 4",
        ),
        (
            lambda mean, scale: (mean, scale[:, :1]),
            ShapeError,
            r"step 3 .* a scale of shape \(1, 4, 5, 7\), got \(1, 1",
        ),
        (
            lambda mean, scale: (mean, scale[0]),
            ShapeError,
            r"step 3 .* a scale of shape \(1, 4, 5, 7\), got \(4, 5, 7\)",
        ),
        (lambda mean, scale: (mean, 1.0), ShapeError, r"step 3 must return a scale of shape \(1, 4, 5, 7\), got float"),
        (
            lambda mean, scale: (None, scale),
            ShapeError,
            r"step 3 must return a mean of shape \(1, 4, 5, 7\), got NoneType",
        ),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_what_is_no_mean_and_scale_is_refused_by_name_of_the_step(wrong, error, message, training):
    model, y = model_of(wrong).train(training), latent(1, 1, M, 5, 7)
    for call in (model, model.compress):
        with pytest.raises(error, match=message):
            call(y)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_not_compressed(value):
    y = latent(1, 2, M, 5, 7)
    with pytest.raises(
        NonFiniteError, match="step 3, channels 2 to 5: a scale is NaN or infinite; check the weights of the context"
    ):
        model_of(lambda mean, scale: (mean, _spoilt(scale, value))).compress(y)
    with pytest.raises(NonFiniteError, match="step 1, channels 0 to 1: a mean is NaN or infinite; check the weights"):
        model_of(lambda mean, scale: (_spoilt(mean, value), scale), at=1).compress(y)


def test_what_is_elsewhere_than_the_step_codes_may_be_anything():
    order = CodingOrder.checkerboard([2, 4])

    def elsewhere(mean, scale):
        coded = order.positions(3, (5, 7))
        return mean.where(coded, float("nan")), scale.where(coded, float("inf"))

    model, y = model_of(elsewhere), latent(1, 1, M, 5, 7)
    coded = model.compress(y)
    assert coded["strings"] == model_of(lambda mean, scale: (mean, scale)).compress(y)["strings"]
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], model(y)["y_hat"])


def test_scales_that_are_not_positive_are_bounded_below():
    y = latent(1, 1, M, 5, 7)
    model = model_of(lambda mean, scale: (mean, -scale))
    coded = model.compress(y)
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], model(y)["y_hat"])


def test_a_refined_slice_of_another_shape_is_refused_by_name_of_the_step():
    class Refining(Written):
        def refine(self, step, y_hat, side, state=None):
            return y_hat[:, :1]

    model = MambaICEntropyModel(M, hyper_channels=3, N=2, context=Refining(None, -1)).eval()
    model.update()
    with pytest.raises(
        ShapeError, match=r"Refining: step 1, refine must return a slice of shape \(1, 2, 5, 7\), got \("
    ):
        model(latent(1, 1, M, 5, 7))


def test_a_context_may_be_given_by_name():
    model = MambaICEntropyModel(M=10, hyper_channels=3, N=2, context="channel").eval()
    model.update()
    assert model.context.order == CodingOrder.one_pass([2] * 5)
    y = latent(1, 1, 10, 4, 4)
    coded = model.compress(y)
    assert torch.equal(model.decompress(coded["strings"], coded["shape"])["y_hat"], coded["y_hat"])
    with pytest.raises(UnknownNameError, match=r"unknown context 'chanel' \(did you mean 'channel'\?\)"):
        MambaICEntropyModel(M=10, context="chanel")


class WithoutOrder(nn.Module):
    """A module, but no context."""


@pytest.mark.parametrize("context", [nn.Conv2d(1, 1, 1), WithoutOrder(), 5, Written, object()])
def test_what_is_no_context_is_refused(context):
    with pytest.raises(ArgumentError, match="context must be a ContextModel or a name of one, got "):
        MambaICEntropyModel(M, hyper_channels=3, N=2, context=context)


def test_a_context_of_other_channels_is_refused():
    with pytest.raises(ArgumentError, match=r"the context must have M=8 channels, got 6"):
        MambaICEntropyModel(8, hyper_channels=3, N=2, context=Written(None))


def test_a_context_without_a_forward_says_so():
    class Bare(ContextModel):
        pass

    with pytest.raises(NotImplementedError, match=r"Bare must define forward\(step, y_hat, side, state=None\)"):
        MambaICEntropyModel(M, hyper_channels=3, N=2, context=Bare(CodingOrder([M])))(latent(1, 1, M, 4, 4))
