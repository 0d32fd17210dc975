"""Images that are cheap to make, and folders of them."""

from pathlib import Path

import torch
from mambaic.images.image_files import write_png


def sample_image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Something between a photograph and noise, as uint8 (3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    noise = 0.05 * torch.randn(3, height, width, generator=generator)
    return ((smooth + noise).clamp(0, 1) * 255).to(torch.uint8)


def write_photos(folder: Path) -> Path:
    """Four images of 70x90 in a nested folder, and one that is too small for crops of 64."""
    for seed in range(4):
        write_png(folder / "nested" / f"{seed}.png", sample_image(70, 90, seed))
    write_png(folder / "small.png", sample_image(20, 90))
    return folder
