"""Codecs with one bug each. A docstring says how the bug comes about."""

from __future__ import annotations

import os
import pickle
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.sound import (
    SLICES,
    M,
    SoundCodec,
    SoundModel,
    channels,
    checksum,
    lists,
)


class LeakFromCurrentPass(SoundCodec):
    """The encoder's networks are shown the rounded latent of the slice, as in training."""

    def seen(self, y, y_hat, k, now):
        shown = y_hat.clone()
        shown[:, channels(k)] = torch.where(now, y[:, channels(k)].round(), y_hat[:, channels(k)])
        return shown


class LeakFromLaterSlice(SoundCodec):
    """One slice too many goes in: y[:, :(k + 2) * width] where y[:, :(k + 1) * width] was meant."""

    def seen(self, y, y_hat, k, now):
        if k + 1 == SLICES:
            return y_hat
        shown = y_hat.clone()
        shown[:, channels(k + 1)] = y[:, channels(k + 1)]
        return shown


class ParitySwappedInDecoder(SoundCodec):
    """The decoder takes the odd positions for the anchors."""

    def decoded_parity(self, anchors):
        return not anchors


class PredictionAddedOnOneSide(SoundCodec):
    """The latent residual prediction reaches the encoder's context, but the decoder adds it after the last slice."""

    def refine_decoded(self, k, y_hat, side):
        if k == SLICES - 1:
            for every in range(SLICES):
                self.refine(every, y_hat, side)


class RoundsWithoutTheMean(SoundCodec):
    """forward gives round(y), compress codes round(y - mean) + mean."""

    def estimate(self, y):
        _, y_likelihood, z_likelihood = super().estimate(y)
        return y.round(), y_likelihood, z_likelihood


class ForgetsZ(SoundCodec):
    """The rate of the hyperprior is left out of the estimate."""

    def forward(self, y):
        out = super().forward(y)
        return {**out, "likelihoods": {"y": out["likelihoods"]["y"]}}


class CoderOfAnotherScale(SoundCodec):
    """The coder looks scales up in a coarser table than the estimate does."""

    def index(self, scale):
        return (super().index(scale) + 4).clamp(max=23)

    def likelihood(self, q, scale):
        tabled = self.gaussian.scale_table[SoundCodec.index(self, scale).long()]
        return self.gaussian._likelihood(q, tabled).clamp(min=1e-9)


class ModelWithoutCropping(SoundModel):
    """The decoder gives the padded image."""

    def synthesise(self, y_hat, size):
        return torch.cat([self.g_s(part) for part in y_hat.split(1)])


class HalvesOddSides(SoundCodec):
    """The decoder takes z to be size // 2, h_a makes it (size + 1) // 2."""

    def hyper_size(self, size):
        return torch.Size(side // 2 for side in size)


class CachesItsMask(SoundCodec):
    """The checkerboard is made once, for the first image that comes."""

    def __init__(self):
        super().__init__()
        self.cache = {}

    def positions(self, size, anchors):
        return self.cache.setdefault(anchors, super().positions(size, anchors))


class TablesAreNotSaved(SoundCodec):
    """update() leaves the tables in a plain attribute, which no state dict holds."""

    def __init__(self):
        super().__init__()
        self.tables = None

    def update(self, force=False):
        changed = super().update(force)
        self.tables = lists(self.entropy_bottleneck)
        return changed

    def encode(self, y):
        self._restore()
        return super().encode(y)

    def decode(self, *arguments):
        self._restore()
        return super().decode(*arguments)

    def _restore(self):
        bottleneck = self.entropy_bottleneck
        for name, value in zip(("_quantized_cdf", "_cdf_length", "_offset"), self.tables, strict=True):
            setattr(bottleneck, name, torch.tensor(value, dtype=torch.int32))


class HoldsALambda(SoundCodec):
    """An activation in an attribute: the codec cannot be pickled, so no data loader and no spawn takes it."""

    def __init__(self):
        super().__init__()
        self.squash = lambda z: z.clamp(-50, 50)

    def analyse(self, y):
        return self.squash(super().analyse(y))


class FixedPrecision(SoundCodec):
    """The decoder starts from float32 zeros, whatever the weights are."""

    def blank(self, side):
        return torch.zeros(1, M, *side.shape[2:])


class NormalisesOverTheBatch(SoundCodec):
    """The hyper-analysis divides by the standard deviation of the whole batch."""

    def compress(self, y):
        self.loudness = y.std() + 1
        return super().compress(y)

    def forward(self, y):
        self.loudness = y.std() + 1
        return super().forward(y)

    def analyse(self, y):
        return super().analyse(y / self.loudness)


class KeepsTheLastImage(SoundCodec):
    """The decoder reuses its buffer and does not clear it, and the networks read all of it."""

    def __init__(self):
        super().__init__()
        self.buffer = None

    def blank(self, side):
        if self.buffer is None or self.buffer.shape[2:] != side.shape[2:]:
            self.buffer = super().blank(side)
        return self.buffer

    def decode(self, *arguments):
        return super().decode(*arguments).clone()


class DropsOutWhileCoding(SoundCodec):
    """F.dropout without training=self.training."""

    def analyse(self, y):
        return super().analyse(F.dropout(y, 0.1))


class ChangesItsInput(SoundCodec):
    """An activation in place on the latent itself."""

    def analyse(self, y):
        return super().analyse(F.hardtanh_(y, -2, 2))


class EightBitSymbols(SoundCodec):
    """Symbols are clipped to a signed byte on their way to the coder."""

    def to_symbols(self, q):
        return q.flatten().int().clamp(-128, 127).tolist()


class OneStreamForTheBatch(SoundCodec):
    """All images go into one stream, as in code that was only ever run on one."""

    def compress(self, y):
        coded = super().compress(y)
        return {**coded, "strings": [[pickle.dumps(same)] for same in coded["strings"]]}

    def decompress(self, strings, shape):
        return super().decompress([pickle.loads(together) for [together] in strings], shape)


class TrustsTheStream(SoundCodec):
    """No checksum: CompressAI's decoder reads whatever there is, and past its end."""

    def seal(self, name, data):
        return data

    def unseal(self, name, data):
        return data


class FillsUpWithZeros(TrustsTheStream):
    """Where the stream ends early the decoder goes on with zeros."""

    def unseal(self, name, data):
        return data + bytes(max(0, 4096 - len(data)))


class AllocatesWhatTheStreamSays(SoundCodec):
    """A length in the stream is believed before anything is checked."""

    def seal(self, name, data):
        return len(data).to_bytes(4, "little") + super().seal(name, data)

    def unseal(self, name, data):
        room = torch.zeros(1024 * int.from_bytes(data[:4], "little"), dtype=torch.uint8)
        return super().unseal(name, data[4:]) if room.numel() else b""


class LoopsUntilAMark(SoundCodec):
    """The decoder looks for the end mark, and there is none in a stream that was cut."""

    def seal(self, name, data):
        return super().seal(name, data) + b"\xff\xd9"

    def unseal(self, name, data):
        while not data.endswith(b"\xff\xd9"):
            time.sleep(0.01)  # what a real one spends on reading nothing
        return super().unseal(name, data[:-2])


class DiesOfDamage(SoundCodec):
    """Native code that aborts."""

    def unseal(self, name, data):
        if checksum(name + data[4:]) != data[:4]:
            os.abort()
        return data[4:]


class UnmaskedWindows(nn.Module):
    """Attention in windows: the padding that fills the last window takes part in the softmax."""

    def __init__(self, dim=8, window=4, masked=False):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.window, self.masked = window, masked

    def forward(self, x):
        height, width = x.shape[2:]
        s = self.window
        below, right = -height % s, -width % s
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, right, 0, below))
        rows, columns = padded.shape[1] // s, padded.shape[2] // s
        q, k, v = self._windows(self.qkv(padded), rows, columns).chunk(3, -1)
        logits = q @ k.transpose(-2, -1)
        if self.masked:
            real = F.pad(torch.ones(1, height, width, 1), (0, 0, 0, right, 0, below))
            logits = logits.masked_fill(self._windows(real, rows, columns).transpose(-2, -1) == 0, -torch.inf)
        y = (logits.softmax(-1) @ v).view(len(x), rows, columns, s, s, -1)
        y = y.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, rows * s, columns * s)
        return x + y[..., :height, :width]

    def _windows(self, x: Tensor, rows: int, columns: int) -> Tensor:
        s = self.window
        return x.view(len(x), rows, s, columns, s, -1).transpose(2, 3).reshape(len(x), rows * columns, s * s, -1)


class UncroppedWindows(UnmaskedWindows):
    """The window pad is never undone: the released MambaIC code does this to a 128x128 image."""

    def forward(self, x):
        pad = (0, -x.shape[3] % self.window, 0, -x.shape[2] % self.window)
        return super().forward(F.pad(x, pad))


class UnsetBorder(nn.Module):
    """A convolution whose border is memory that nobody wrote."""

    def __init__(self, dim=8):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3)

    def forward(self, x):
        room = x.new_empty(*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2)
        room[..., 1:-1, 1:-1] = x
        return self.conv(room)


class BatchStatistics(nn.Module):
    """Normalises over the batch, in evaluation too."""

    def forward(self, x):
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), keepdim=True, unbiased=False) + 1)


def bpp_by_length(coded: dict) -> float:
    """Counts lists for bytes: the released MambaIC code reports this."""
    return 8 * len(coded["strings"][0]) / (16 * 16)


def bpp_by_bytes(coded: dict) -> float:
    return 8 * sum(len(stream) for streams in coded["strings"] for stream in streams) / (16 * 16)


def estimated_bpp_of_y(out: dict) -> float:
    """The rate term of a loss that was written before the codec had a hyperprior."""
    return -out["likelihoods"]["y"].log2().sum().item() / (16 * 16)


def estimated_bpp(out: dict) -> float:
    return sum(-p.log2().sum().item() for p in out["likelihoods"].values()) / (16 * 16)
