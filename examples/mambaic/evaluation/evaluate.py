"""Evaluation: every image of a folder through real files, for one checkpoint or for a curve of several."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mambaic.codec import rates
from mambaic.evaluation.results import Row, summarise
from mambaic.evaluation.timing import PARTS, Stopwatch, stopwatch
from mambaic.images.coding import load, read_coded
from mambaic.images.dial import on_dial
from mambaic.images.image_files import read_scaled, to_float, usable_images
from mambaic.images.measure import facts, quality
from mambaic.images.parallel import for_each
from ssmctx import ImageCodec
from ssmctx.codec.refine import lambda_at
from ssmctx.errors import ArgumentError, StreamError
from ssmctx.files import write_whole

_WARM_UP = (64, 64)


def evaluate(
    checkpoints: Sequence[str | Path],
    folder: str | Path,
    name: str | None = None,
    device: str = "cpu",
    jobs: int = 1,
    scale: float = 1.0,
    effort: int = 0,
    qualities: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Code and decode every image below a folder with every checkpoint.

    Args:
        checkpoints: files, or names of bundled ones; one for each point of the curve, in any order, or a variable-rate
            one for several points.
        folder: of images, of any sizes.
        name: of the curve; default the preset and variant of the first checkpoint.
        device: of torch.
        jobs: processes, each with one torch thread, that share the images on a CPU; 1 uses all threads on each.
        scale: evaluate on images made smaller by this factor.
        effort: as `ImageCodec.encode` takes it.
        qualities: 0 to 100, points of variable-rate checkpoints; by default all that were trained.

    Returns:
        Results in CompressAI's layout (see `results.summarise`). "bpp" comes from the size of the file on disk,
        "bpp-estimated" from likelihoods (left out with an effort, which codes another latent); "psnr-rgb" and
        "ms-ssim-rgb" are of the decoded 8-bit pixels. "encoding_time", from pixels to the file's content, and
        "decoding_time", back, are in seconds, and split in "..._network", "..._coder" and "..._transfer"; quantisation
        and container count as network.

    Raises:
        DataError: no images, or none that can be read; single ones are left out and named on stderr.
        CheckpointError: a checkpoint cannot be used.
        StreamError: a file did not decode to the encoder's reconstruction.
        ArgumentError: several processes on another device than the CPU.
    """
    if jobs > 1 and torch.device(device).type != "cpu":
        raise ArgumentError(f"{jobs} processes would share one {device}: use --jobs 1 there, or --device cpu")
    curve = [_points(checkpoint, qualities) for checkpoint in checkpoints]
    points = [point for _, own in curve for point in own]
    paths, left_out = usable_images(folder, scale)
    items = [(point, path) for point in points for path in paths]
    rows = for_each(partial(ImageEvaluator, Path(folder), device, scale, effort), items, jobs, "eval")
    figures = [rows[i : i + len(paths)] for i in range(0, len(rows), len(paths))]
    made = curve[0][0]
    threads = 1 if jobs > 1 else torch.get_num_threads()
    meta = {
        "dataset": Path(folder).name,
        "left_out": left_out,
        "checkpoints": [Path(point.checkpoint).name for point in points],
        "qualities": [point.quality for point in points],
        "lambdas": [point.lmbda for point in points],
        "effort": effort,
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device),
        "threads": threads,
        "jobs": jobs,
        "scale": scale,
        "torch": torch.__version__,
    }
    return summarise(name or f"ssmctx {made}", f"ssmctx example codec, {made}, files on disk", figures, meta)


class Point(NamedTuple):
    """A point of a curve: a checkpoint, the quality if it is variable-rate, and lambda there."""

    checkpoint: str | Path
    quality: float | None = None
    lmbda: float | None = None


def _points(checkpoint: str | Path, qualities: Sequence[float] | None) -> tuple[str, list[Point]]:
    """Preset and variant of a checkpoint, and its points."""
    codec = load(checkpoint)
    count, made = rates(codec), f"{codec.preset} {codec.variant}"
    if count is None:
        on_dial(codec, qualities[0] if qualities else None)  # which refuses
        return made, [Point(checkpoint, None, codec.lmbda)]
    wanted = [100 * i / max(1, count - 1) for i in range(count)] if qualities is None else qualities
    known = codec.lmbda is not None
    return made, [Point(checkpoint, q, lambda_at(codec.lmbda, on_dial(codec, q)) if known else None) for q in wanted]


class ImageEvaluator:
    """Evaluates one image at one point at a time; keeps the model that it used last.

    Args:
        folder: that the names of images are relative to.
        device: of torch.
        scale: of the images.
        effort: as `ImageCodec.encode` takes it.
    """

    def __init__(self, folder: Path, device: str, scale: float, effort: int = 0) -> None:
        self.folder, self.device, self.scale, self.effort = folder, device, scale, effort
        self._loaded: tuple[Any, ImageCodec] | None = None

    def __call__(self, item: tuple[Point, Path]) -> Row:
        """Figures of (point, image)."""
        point, path = item
        fresh = self._loaded is None or self._loaded[0] != point.checkpoint
        if fresh:
            self._loaded = point.checkpoint, load(point.checkpoint, self.device)
        codec, pixels = self._loaded[1], read_scaled(path, self.scale)
        own_quality = None if point.quality is None else on_dial(codec, point.quality)
        if fresh:
            with stopwatch(codec) as watch:  # kernels are compiled on first use
                _code(codec, torch.zeros(3, *_WARM_UP, dtype=torch.uint8), watch, own_quality, self.effort)
        with stopwatch(codec) as watch:
            coded = _code(codec, pixels, watch, own_quality, self.effort)
        estimated = None if self.effort else _estimated_bits(codec, pixels, own_quality) / pixels[0].numel()
        return {
            **facts(path.relative_to(self.folder).as_posix(), pixels, coded.pop("size")),
            "bpp-estimated": estimated,
            **quality(coded.pop("decoded"), pixels),
            **coded,
        }


def _code(
    codec: ImageCodec, pixels: Tensor, watch: Stopwatch, own_quality: float | None, effort: int
) -> dict[str, Any]:
    """Code pixels into a file and decode it: its "size" in bytes, the "decoded" pixels, and times."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "image.sic"
        watch.start()
        data, y_hat = codec.encode_with_latent(pixels, own_quality, effort)
        encoding = watch.lap()
        write_whole(file, data)
        data = read_coded(file)
        watch.start()
        decoded = codec.decode(data)
        decoding = watch.lap()
    if not torch.equal(decoded, codec.image_of(y_hat, (pixels.shape[1], pixels.shape[2]))):
        raise StreamError("a file did not decode to the encoder's reconstruction: please report this with the image")
    times = {
        f"{which}_time{'' if part == 'total' else f'_{part}'}": lap[part]
        for which, lap in (("encoding", encoding), ("decoding", decoding))
        for part in ("total", *PARTS)
    }
    return {"size": len(data), "decoded": decoded, **times}


@torch.no_grad()
def _estimated_bits(codec: ImageCodec, pixels: Tensor, own_quality: float | None) -> float:
    likelihoods = codec(to_float(pixels).to(next(codec.parameters()).device), own_quality)["likelihoods"].values()
    return float(sum(-torch.log2(p).sum().item() for p in likelihoods))
