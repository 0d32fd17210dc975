"""Contexts, coding orders, coders and scans with one bug each."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from gallery.sound import WIDTH, M
from ssmctx import CodingOrder, ContextModel
from ssmctx.scan import reference
from ssmctx.scan.backend import Backend


class SoundContext(ContextModel):
    """Convolutions over what is coded."""

    def __init__(self, order=None):
        super().__init__(order or CodingOrder([WIDTH] * (M // WIDTH)))
        torch.manual_seed(3)
        self.nets = nn.ModuleList(nn.Conv2d(3 * M, 2 * WIDTH, 3, padding=1) for _ in self.order.slices)

    def forward(self, step, y_hat, side, state=None):
        k = self.order.slice_index(step)
        mean, scale = self.nets[k](torch.cat([self.selected(step, y_hat), side], 1)).chunk(2, 1)
        return mean, scale

    def selected(self, step, y_hat):
        return torch.where(self.coded(step, y_hat), y_hat, 0)

    def coded(self, step, y_hat):
        size = tuple(y_hat.shape[2:])
        coded = torch.zeros(M, *size, dtype=torch.bool)
        for earlier in range(step):
            coded |= self.order.mask(earlier, size)
        return coded


class SeesItsOwnPass(SoundContext):
    """The mask is that of the steps up to this one, included."""

    def coded(self, step, y_hat):
        return super().coded(step + 1, y_hat)


class SeesALaterSlice(SoundContext):
    """The last channel of the latent is taken along."""

    def selected(self, step, y_hat):
        return super().selected(step, y_hat) + 1e-6 * y_hat[:, -1:].mean()


class MasksByMultiplying(SoundContext):
    """What is not coded is multiplied by 0: right for numbers, wrong for whatever a fresh buffer holds."""

    def selected(self, step, y_hat):
        return y_hat * self.coded(step, y_hat)


class KeepsAStaleState(SoundContext):
    """What the first step put into the state serves all others."""

    def begin(self, side):
        return {}

    def forward(self, step, y_hat, side, state=None):
        selected = (self.begin(side) if state is None else state).setdefault("selected", self.selected(step, y_hat))
        k = self.order.slice_index(step)
        mean, scale = self.nets[k](torch.cat([selected, side], 1)).chunk(2, 1)
        return mean, scale


class RefinesWithALaterSlice(SoundContext):
    """The residual prediction of a slice reads the whole buffer, of which later slices are not decoded yet."""

    def refine(self, step, y_hat, side, state=None):
        return y_hat[:, self.order.channels(step)] + 1e-6 * y_hat.mean()


class Refines(SoundContext):
    """A residual prediction from the slice itself."""

    def refine(self, step, y_hat, side, state=None):
        current = y_hat[:, self.order.channels(step)]
        return current + 1e-6 * current.mean()


class CodesAnchorsTwice(CodingOrder):
    """The second pass takes every position."""

    def positions(self, step, size, device=None):
        own = super().positions(step, size, device)
        return own if self.is_anchor(step) else torch.ones_like(own)


def loses_a_channel():
    """Slices that do not add up: the last channel is never coded."""
    order = CodingOrder([WIDTH] * (M // WIDTH))
    mask = order.mask

    def shorter(step, size, device=None):
        kept = mask(step, size, device)
        kept[-1] = False
        return kept

    order.mask = shorter
    return order


def loses_the_carry() -> Backend:
    """A chunk that starts from zero, whatever state it was handed."""

    def forward(inputs):
        v, _ = reference.forward(inputs._replace(h0=torch.zeros_like(inputs.h0)))
        _, last = reference.forward(inputs)
        return v, last

    return Backend("loses the carry", lambda: None, forward)


def walks_the_wrong_way() -> Backend:
    """A reversed direction that runs forward."""

    def forward(inputs):
        forwards = tuple(name.removesuffix("-reversed") for name in inputs.directions)
        return reference.forward(inputs._replace(directions=forwards))

    return Backend("walks the wrong way", lambda: None, forward)


def forgets_a_gradient() -> Backend:
    """A backward pass without the skip's share of du."""

    def backward(dv, dlast, inputs):
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in inputs[:8]]
            v, last = reference.forward(inputs._make([*leaves, *inputs[8:]]))
            du, *others = torch.autograd.grad([v, last], leaves, [dv, dlast])
        return du - dv * inputs.D.sum(0), *others

    return Backend("forgets a gradient", lambda: None, reference.forward, backward)


def reads_what_it_never_wrote() -> Backend:
    """Accumulates into fresh memory."""

    def forward(inputs):
        v, last = reference.forward(inputs)
        return v + 0 * torch.empty_like(v), last

    return Backend("reads what it never wrote", lambda: None, forward)


def sound_backend() -> Backend:
    """One whose backward pass is its own."""

    def backward(dv, dlast, inputs):
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in inputs[:8]]
            v, last = reference.forward(inputs._make([*leaves, *inputs[8:]]))
        return torch.autograd.grad([v, last], leaves, [dv, dlast])

    return Backend("sound", lambda: None, reference.forward, backward)


def sound_low_rank_backend() -> Backend:
    """One that multiplies low-rank step sizes out itself."""

    def whole(inputs, dt_weight):
        return inputs._replace(dt_raw=torch.einsum("bhwkr,kdr->bhwkd", inputs.dt_raw, dt_weight))

    def forward(inputs, dt_weight=None):
        return reference.forward(inputs if dt_weight is None else whole(inputs, dt_weight))

    def backward(dv, dlast, inputs, dt_weight=None):
        if dt_weight is None:
            return sound_backend().backward(dv, dlast, inputs)
        du, steps, dA, dB, dC, *others = sound_backend().backward(dv, dlast, whole(inputs, dt_weight))
        of_low_rank = torch.einsum("bhwkd,kdr->bhwkr", steps, dt_weight)
        of_weight = torch.einsum("bhwkd,bhwkr->kdr", steps, inputs.dt_raw)
        return du, torch.cat([of_low_rank, dB, dC], dim=-1), dA, None, None, *others, of_weight

    return Backend("sound", lambda: None, forward, backward, low_rank=True)


def swaps_the_parts_of_a_gradient() -> Backend:
    """A low-rank scan that gives the gradient of C where that of B belongs."""
    sound = sound_low_rank_backend()

    def backward(dv, dlast, inputs, *dt_weight):
        du, together, *others = sound.backward(dv, dlast, inputs, *dt_weight)
        rank, states = inputs.dt_raw.shape[-1], inputs.B.shape[-1]
        low_rank, B, C = together.split([rank, states, states], dim=-1)
        return du, torch.cat([low_rank, C, B], dim=-1), *others

    return dataclasses.replace(sound, name="swaps the parts", backward=backward)


class ZerosAtTheEnd:
    """A coder whose decoder goes on with zeros where the stream ends."""

    name = "zeros at the end"

    def __init__(self, sound):
        self.sound = sound

    def encoder(self):
        return self.sound.encoder()

    def decoder(self, stream):
        try:
            return _Patient(self.sound.decoder(stream))
        except ValueError:
            return _Patient(None)


class _Patient:
    def __init__(self, decoder):
        self.decoder = decoder

    def decode(self, indexes, tables):
        try:
            return self.decoder.decode(indexes, tables)
        except (AttributeError, ValueError):
            return indexes.astype("int16") * 0

    def finish(self):
        pass
