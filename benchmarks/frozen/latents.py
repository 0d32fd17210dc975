"""Latents of one encoder, rounded to integers: what all contexts code, computed once and kept in a file."""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from mambaic.checkpoint import load_model
from mambaic.images.image_files import find_images, read_image, to_float

from ssmctx.errors import ArgumentError, CheckpointError
from ssmctx.files import write_whole
from ssmctx.layers.transforms import pad_image

FORMAT = "ssmctx-frozen-latents-1"


@dataclass(frozen=True)
class Latents:
    """Integer latents.

    Attributes:
        train: each (M, H, W) int16, of the training images, flipped and turned in eight ways.
        test: each (M, H, W) int16, of the test images.
        pixels: of each test image.
        names: of the test images.
        codec: what made them, a digest of the encoder's weights with it.
    """

    train: list[Tensor]
    test: list[Tensor]
    pixels: list[int]
    names: list[str]
    codec: str

    @property
    def M(self) -> int:  # noqa: N802  # the paper's name
        """Channels."""
        return self.test[0].shape[0]

    @functools.cached_property
    def spread(self) -> Tensor:
        """Root mean square of each channel over the training latents, (M,)."""
        return torch.stack([y.double().square().mean(dim=(1, 2)) for y in self.train]).mean(0).sqrt().float()


def load_codec(name: str) -> tuple[nn.Module, str]:
    """A codec with an encoder `g_a`, and what the cache calls it.

    Args:
        name: a checkpoint of the example, or "module:function" that makes a codec, CompressAI's say
            ("compressai.zoo:bmshj2018_factorized").

    Raises:
        ArgumentError: there is no such module or function, or what it makes has no `g_a`.
    """
    if Path(name).suffix == ".pt":
        codec: nn.Module = load_model(name)
    else:
        codec = _made(name).eval()
    if not isinstance(getattr(codec, "g_a", None), nn.Module):
        raise ArgumentError(f"a codec with an encoder g_a is needed, {name} makes a {type(codec).__name__} without one")
    digest = hashlib.sha256()
    for tensor in codec.g_a.state_dict().values():
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return codec, f"{Path(name).name} {digest.hexdigest()[:16]}"


def _made(name: str) -> nn.Module:
    module, _, function = name.partition(":")
    try:
        make: Callable[[], Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(f"--codec takes a checkpoint.pt or module:function, got {name!r} ({error})") from None
    made: nn.Module = make()
    return made


def cached_latents(path: Path, codec: str, train: Path | None, test: Path | None) -> Latents:
    """The latents in the file `path`; if it does not exist, those of the images in `train` and `test`, written there.

    Raises:
        ArgumentError: the file holds latents of another codec, or does not exist and a folder is not given.
        CheckpointError: it is not a latents file of this benchmark, or damaged.
    """
    model, name = load_codec(codec)
    if path.exists():
        content = _read(path)
        if content["codec"] != name:
            raise ArgumentError(
                f"{path} holds latents of {content['codec']}, not of {name}: give another --out, or delete the file"
            )
        return Latents(**content)
    if train is None or test is None:
        raise ArgumentError(f"{path} does not exist yet: give folders of images with --train and --test")
    tests = [(file.stem, read_image(file)) for file in find_images(test)]
    latents = Latents(
        [_latent(model, x) for file in tqdm(find_images(train), "training latents") for x in _turned(read_image(file))],
        [_latent(model, pixels) for _, pixels in tqdm(tests, "test latents")],
        [pixels[0].numel() for _, pixels in tests],
        [stem for stem, _ in tests],
        name,
    )
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **vars(latents)}, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getvalue())
    return latents


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, weights_only=True)
    except Exception as error:  # torch.load fails in as many ways as files can be foreign
        raise CheckpointError(f"{path} is damaged ({error}): delete it to make it again") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} holds no latents of this benchmark ({FORMAT}): give another --out")
    return content


def _turned(pixels: Tensor) -> list[Tensor]:
    """An image in eight ways, by quarter turns and flips."""
    quarters = [torch.rot90(pixels, k, (1, 2)) for k in range(4)]
    return [way for turned in quarters for way in (turned, turned.flip(2))]


@torch.no_grad()
def _latent(codec: nn.Module, pixels: Tensor) -> Tensor:
    """What g_a makes of uint8 pixels (3, H, W), in integers."""
    assert isinstance(codec.g_a, nn.Module)
    y: Tensor = codec.g_a(pad_image(to_float(pixels)).contiguous())
    return y[0].round().to(torch.int16)
