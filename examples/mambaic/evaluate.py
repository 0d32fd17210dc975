"""Evaluation: every picture of a folder through real files."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pytorch_msssim import ms_ssim
from torch import Tensor
from tqdm import tqdm

from mambaic.files import PictureCodec, read_coded
from mambaic.images import find_images, psnr, read_image, to_float
from ssmctx.entropy.container import write_whole
from ssmctx.errors import StreamError

MS_SSIM_MIN_SIDE = 161  # five scales of an 11x11 window


def evaluate(codec: PictureCodec, folder: str | Path) -> dict[str, Any]:
    """Code and decode every picture below a folder.

    Returns:
        "images", a list with one dict per picture, and "mean" over them. bpp_estimated comes from likelihoods and bpp
        from the size of the file on disk, both in bits per pixel; psnr and ms_ssim_db in dB (None below 161 pixels a
        side), of the decoded 8-bit pixels; encode_s and decode_s in seconds, from pixels to file and back.

    Raises:
        DataError: no pictures.
        StreamError: a file did not decode to the encoder's reconstruction.
    """
    paths = find_images(folder)
    with tempfile.TemporaryDirectory() as scratch:
        images = [
            {
                "name": str(path.relative_to(folder)),
                **_evaluate_one(codec, read_image(path), Path(scratch) / "picture.sic"),
            }
            for path in tqdm(paths, desc="eval", unit="picture", dynamic_ncols=True)
        ]
    return {"images": images, "mean": _means(images)}


@torch.no_grad()
def _evaluate_one(codec: PictureCodec, pixels: Tensor, file: Path) -> dict[str, Any]:
    x = to_float(pixels).to(codec.device)
    likelihoods = codec.model(x)["likelihoods"].values()
    bits = sum(-torch.log2(p).sum().item() for p in likelihoods)
    start = time.perf_counter()
    picture, y_hat = codec.encode(pixels)
    write_whole(file, picture.to_bytes())
    encoded = time.perf_counter()
    decoded = codec.decode(read_coded(file))
    end = time.perf_counter()
    if not torch.equal(decoded, codec.reconstruct(y_hat, *pixels.shape[1:])):
        raise StreamError("a file did not decode to the encoder's reconstruction: please report this with the picture")
    area = pixels.shape[1] * pixels.shape[2]
    return {
        "width": pixels.shape[2],
        "height": pixels.shape[1],
        "bytes": file.stat().st_size,
        "bpp": 8 * file.stat().st_size / area,
        "bpp_estimated": bits / area,
        "psnr": psnr(decoded, pixels),
        "ms_ssim_db": _ms_ssim_db(decoded, pixels),
        "encode_s": encoded - start,
        "decode_s": end - encoded,
    }


def _ms_ssim_db(a: Tensor, b: Tensor) -> float | None:
    if min(a.shape[1:]) < MS_SSIM_MIN_SIDE:
        return None
    return -10 * math.log10(max(1e-10, 1 - ms_ssim(a[None].float(), b[None].float(), data_range=255).item()))


def _means(images: list[dict[str, Any]]) -> dict[str, float | None]:
    keys = [key for key in images[0] if key not in ("name", "width", "height")]
    columns = {key: [image[key] for image in images if image[key] is not None] for key in keys}
    return {key: fmean(column) if column else None for key, column in columns.items()}
