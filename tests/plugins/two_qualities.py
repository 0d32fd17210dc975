"""One model at two rates: trained with a quality drawn for each image, coded with either or between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssmctx import ImageCodec, MambaICEntropyModel

LAMBDAS = (0.0067, 0.025)
"""Weight of the distortion, by quality."""


def two_qualities(M: int = 8) -> ImageCodec:
    """An image codec whose gains are learned for two qualities."""
    g_a = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.GELU(), nn.Conv2d(16, M, 3, stride=2, padding=1))
    g_s = nn.Sequential(nn.ConvTranspose2d(M, 16, 4, stride=2, padding=1), nn.GELU(), nn.ConvTranspose2d(16, 3, 8, 8))
    return ImageCodec(g_a, g_s, MambaICEntropyModel(M, 2, hyper_channels=4, N=2, qualities=len(LAMBDAS)))


def loss(codec: ImageCodec, x: Tensor, qualities: list[int]) -> Tensor:
    """lambda * 255^2 * MSE + bits per pixel, with the lambda of each image's quality."""
    out = codec(x, quality=qualities)
    errors = (out["x_hat"] - x).square().flatten(1).mean(1)
    bits = -sum(p.log2().sum() for p in out["likelihoods"].values())
    weights = torch.tensor([LAMBDAS[quality] for quality in qualities])
    return (weights * 255**2 * errors).mean() + bits / (x.numel() / 3)


def train(codec: ImageCodec, batches: list[Tensor]) -> None:
    """A few steps of Adam."""
    codec.train()
    optimizer = torch.optim.Adam(codec.parameters(), lr=1e-3)
    for x in batches:
        optimizer.zero_grad()
        loss(codec, x, torch.randint(len(LAMBDAS), (len(x),)).tolist()).backward()
        codec.aux_loss().backward()
        optimizer.step()
    codec.eval().update(force=True, update_quantiles=True)
