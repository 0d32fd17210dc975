"""A sound codec in the manner of research code: three loops, CompressAI's parts, one slice after the other.

Every planted fault is this codec with one method changed.
"""

from __future__ import annotations

import math
import zlib

import torch
import torch.nn.functional as F
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor, nn

from ssmctx.errors import CorruptStreamError

M, SLICES, HYPER = 6, 2, 4
WIDTH = M // SLICES
_LEVELS = torch.linspace(math.log(0.11), math.log(24), 24).exp().tolist()
_TABLES = ("_offset", "_quantized_cdf", "_cdf_length")


class SoundCodec(nn.Module):
    """A latent codec: hyperprior, two slices in two checkerboard passes each, latent residual prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.h_a = nn.Conv2d(M, HYPER, 3, stride=2, padding=1)
        self.h_s = nn.ConvTranspose2d(HYPER, 2 * M, 4, stride=2, padding=1)
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3 * M, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 2 * WIDTH, 1))
            for _ in range(SLICES)
        )
        self.lrp = nn.ModuleList(nn.Conv2d(3 * M, WIDTH, 3, padding=1) for _ in range(SLICES))
        self.entropy_bottleneck = EntropyBottleneck(HYPER)
        self.entropy_bottleneck._update_quantiles()  # what the auxiliary loss arrives at
        self.gaussian = GaussianConditional(_LEVELS)
        self.gaussian.update()
        with torch.no_grad():
            self.h_a.weight *= 4
            for net in self.nets:  # latents of standard deviation 4 are what it expects: as good as trained
                net[-1].bias[WIDTH:] += 4

    # --- CompressAI's contract

    def forward(self, y: Tensor) -> dict:
        y_hats, y_likelihoods, z_likelihoods = zip(*(self.estimate(part) for part in y.split(1)), strict=True)
        return {
            "y_hat": torch.cat(y_hats),
            "likelihoods": {"y": torch.cat(y_likelihoods), "z": torch.cat(z_likelihoods)},
        }

    def compress(self, y: Tensor) -> dict:
        y_strings, z_strings, y_hats = zip(*(self.encode(part) for part in y.split(1)), strict=True)
        return {"strings": [list(y_strings), list(z_strings)], "shape": y.shape[2:], "y_hat": torch.cat(y_hats)}

    def decompress(self, strings: list, shape: torch.Size) -> dict:
        return {"y_hat": torch.cat([self.decode(*pair, shape) for pair in zip(*strings, strict=True)])}

    def update(self, force: bool = False) -> bool:
        return self.entropy_bottleneck.update(force=force)

    # --- the three loops

    def estimate(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.analyse(y)
        side = self.side(self.z_symbols(z) + self.medians(), y.shape[2:])
        likelihood = torch.ones_like(y)
        y_hat = torch.zeros_like(y)
        for k, anchors in steps():
            now = self.positions(y.shape[2:], anchors)
            mean, scale = self.predict(k, self.seen(y, y_hat, k, now), side)
            q = self.quantise(y[:, channels(k)] - mean)
            likelihood[:, channels(k)] = torch.where(now, self.likelihood(q, scale), likelihood[:, channels(k)])
            y_hat[:, channels(k)] = torch.where(now, q + mean, y_hat[:, channels(k)])
            if not anchors:
                self.refine(k, y_hat, side)
        return y_hat, likelihood, self.entropy_bottleneck(z)[1]

    def encode(self, y: Tensor) -> tuple[bytes, bytes, Tensor]:
        z = self.z_symbols(self.analyse(y))
        side = self.side(z + self.medians(), y.shape[2:])
        y_hat = torch.zeros_like(y)
        symbols, indexes = [], []
        for k, anchors in steps():
            now = self.positions(y.shape[2:], anchors)
            mean, scale = self.predict(k, self.seen(y, y_hat, k, now), side)
            q = torch.round(y[:, channels(k)] - mean)
            symbols += self.to_symbols(q[..., now])
            indexes += self.index(scale)[..., now].flatten().tolist()
            y_hat[:, channels(k)] = torch.where(now, q + mean, y_hat[:, channels(k)])
            if not anchors:
                self.refine(k, y_hat, side)
        z_indexes = self.z_indexes(z.shape[2:])
        y_string = self.seal(b"y", write(symbols, indexes, self.gaussian))
        z_string = self.seal(b"z", write(z.flatten().int().tolist(), z_indexes, self.entropy_bottleneck))
        return y_string, z_string, y_hat

    def decode(self, y_string: bytes, z_string: bytes, size: torch.Size) -> Tensor:
        small = self.hyper_size(size)
        z_decoder = Reader(self.unseal(b"z", z_string), self.entropy_bottleneck)
        z = z_decoder.read(self.z_indexes(small)).to(self.medians().dtype).view(1, HYPER, *small)
        side = self.side(z + self.medians(), size)
        decoder = Reader(self.unseal(b"y", y_string), self.gaussian)
        y_hat = self.blank(side)
        for k, anchors in steps():
            now = self.positions(y_hat.shape[2:], self.decoded_parity(anchors))
            mean, scale = self.predict(k, y_hat, side)
            q = torch.zeros_like(mean)
            q[..., now] = decoder.read(self.index(scale)[..., now].flatten().tolist()).to(q).view(1, WIDTH, -1)
            y_hat[:, channels(k)] = torch.where(now, q + mean, y_hat[:, channels(k)])
            if not anchors:
                self.refine_decoded(k, y_hat, side)
        return y_hat

    # --- pieces, each of which some fault changes

    def positions(self, size: torch.Size, anchors: bool) -> Tensor:
        return positions(size, anchors)

    def hyper_size(self, size: torch.Size) -> torch.Size:
        return torch.Size((side + 1) // 2 for side in size)

    def analyse(self, y: Tensor) -> Tensor:
        return self.h_a(y)

    def side(self, z_hat: Tensor, size: torch.Size) -> Tensor:
        return self.h_s(z_hat)[..., : size[0], : size[1]]

    def seen(self, y: Tensor, y_hat: Tensor, k: int, now: Tensor) -> Tensor:
        """What the encoder's networks are shown."""
        return y_hat

    def predict(self, k: int, y_hat: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.nets[k](torch.cat([y_hat, side], 1)).chunk(2, 1)
        return mean, scale

    def refine(self, k: int, y_hat: Tensor, side: Tensor) -> None:
        y_hat[:, channels(k)] += 0.5 * torch.tanh(self.lrp[k](torch.cat([y_hat, side], 1)))

    def refine_decoded(self, k: int, y_hat: Tensor, side: Tensor) -> None:
        self.refine(k, y_hat, side)

    def quantise(self, residual: Tensor) -> Tensor:
        return torch.round(residual)

    def likelihood(self, q: Tensor, scale: Tensor) -> Tensor:
        tabled = self.gaussian.scale_table[self.index(scale).long()]
        return self.gaussian._likelihood(q, tabled).clamp(min=1e-9)

    def index(self, scale: Tensor) -> Tensor:
        return self.gaussian.build_indexes(scale)

    def to_symbols(self, q: Tensor) -> list[int]:
        return q.flatten().int().tolist()

    def decoded_parity(self, anchors: bool) -> bool:
        return anchors

    def blank(self, side: Tensor) -> Tensor:
        return side.new_zeros(1, M, *side.shape[2:])

    def z_symbols(self, z: Tensor) -> Tensor:
        return torch.round(z - self.medians())

    def medians(self) -> Tensor:
        return self.entropy_bottleneck.quantiles[None, :, 0, 1, None, None].detach()

    def z_indexes(self, size: torch.Size) -> list[int]:
        return torch.arange(HYPER).repeat_interleave(size.numel()).tolist()

    def seal(self, name: bytes, data: bytes) -> bytes:
        return checksum(name + data) + data

    def unseal(self, name: bytes, data: bytes) -> bytes:
        if checksum(name + data[4:]) != data[:4]:
            raise CorruptStreamError("the checksum is wrong")
        return data[4:]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: object) -> None:
        for name in _TABLES:  # update() gives these another size
            stored = state_dict.get(f"{prefix}entropy_bottleneck.{name}")
            if stored is not None:
                setattr(self.entropy_bottleneck, name, torch.empty_like(stored))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class SoundModel(nn.Module):
    """A whole model around it: images of any size, padded to whole cells and cropped again."""

    def __init__(self) -> None:
        super().__init__()
        self.g_a = nn.Conv2d(3, M, 4, stride=4)
        self.g_s = nn.ConvTranspose2d(M, 3, 4, stride=4)
        self.codec = SoundCodec()
        with torch.no_grad():
            self.g_a.weight *= 20

    def forward(self, x: Tensor) -> dict:
        out = self.codec(self.g_a(self.pad(x)))
        return {"x_hat": self.synthesise(out["y_hat"], x.shape[2:]), "likelihoods": out["likelihoods"]}

    def compress(self, x: Tensor) -> dict:
        coded = self.codec.compress(self.g_a(self.pad(x)))
        return {"strings": coded["strings"], "shape": {"image": tuple(x.shape[2:]), "latent": coded["shape"]}}

    def decompress(self, strings: list, shape: dict) -> dict:
        y_hat = self.codec.decompress(strings, shape["latent"])["y_hat"]
        return {"x_hat": self.synthesise(y_hat, shape["image"]).clamp(0, 1)}

    def update(self, force: bool = False) -> bool:
        return self.codec.update(force)

    def pad(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))

    def synthesise(self, y_hat: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.cat([self.g_s(part) for part in y_hat.split(1)])[..., : size[0], : size[1]]


def steps() -> list[tuple[int, bool]]:
    """Slice, and whether its anchors are coded."""
    return [(k, anchors) for k in range(SLICES) for anchors in (True, False)]


def channels(k: int) -> slice:
    return slice(k * WIDTH, (k + 1) * WIDTH)


def positions(size: torch.Size, anchors: bool) -> Tensor:
    row, column = torch.arange(size[0])[:, None], torch.arange(size[1])
    return ((row + column) % 2 == 0) == anchors


def checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def lists(entropy_model: nn.Module) -> tuple[list, list, list]:
    cdf, lengths, offsets = entropy_model.quantized_cdf, entropy_model.cdf_length, entropy_model.offset
    return cdf.tolist(), lengths.tolist(), offsets.tolist()


def write(symbols: list[int], indexes: list[int], entropy_model: nn.Module) -> bytes:
    padding = [0] * max(0, 4 - len(symbols))  # CompressAI's encoder overruns its buffer with fewer than four
    encoder = BufferedRansEncoder()
    encoder.encode_with_indexes(symbols + padding, indexes + padding, *lists(entropy_model))
    return encoder.flush()


class Reader:
    """Symbols of a stream, step by step."""

    def __init__(self, stream: bytes, entropy_model: nn.Module) -> None:
        self.decoder = RansDecoder()
        self.decoder.set_stream(stream)
        self.tables = lists(entropy_model)

    def read(self, indexes: list[int]) -> Tensor:
        return torch.tensor(self.decoder.decode_stream(indexes, *self.tables))
