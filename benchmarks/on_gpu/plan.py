"""What is measured, at which sizes: on a GPU, and with the same code in a dry run on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Size = tuple[int, int, int]
Deconvolution = tuple[int, int, int, int, int]
"""Channels in and out, side of the kernel, height and width."""


@dataclass(frozen=True)
class Plan:
    """Sizes and settings of a run.

    Attributes:
        device: "cuda" or "cpu".
        tests: arguments of pytest: files, and which of their tests need a GPU.
        components: how many registered components are walked; None for all.
        states: N of all scans.
        scans: channels, height and width of the scans that are timed, the most important first.
        largest_for_torch: cells of u up to which the torch backend is timed, which keeps all states.
        knobs: sizes at which launch constants are compared.
        tries: launch constants that are tried, forward and backward each; None for all.
        channels: all numbers of channels whose kernels are compiled beforehand.
        blocks: dim, height and width of the VSS blocks; their SS2D has twice the channels.
        deconvolutions: those of g_s, of stride 2.
        preset: of the codec.
        images: width and height of the images that it codes.
        across: presets whose files cross devices, with width and height of the images.
        train: batch and crop of the training step.
        end: flags of the last part's training beside its time.
        rounds: timed rounds, of which the median is shown.
        repeat: calls between two events on the device.
    """

    device: str
    tests: tuple[str, ...]
    components: int | None
    states: int
    scans: tuple[Size, ...]
    largest_for_torch: int
    knobs: tuple[Size, ...]
    tries: int | None
    channels: tuple[int, ...]
    blocks: tuple[Size, ...]
    deconvolutions: tuple[Deconvolution, ...]
    preset: str
    images: tuple[tuple[int, int], ...]
    across: tuple[tuple[str, int, int], ...]
    train: tuple[int, int]
    end: tuple[str, ...]
    rounds: int
    repeat: int


ON_GPU = Plan(
    device="cuda",
    tests=(
        "tests/test_triton.py",
        "tests/test_scale_network.py",
        "tests/test_deconvolution.py",
        "tests/test_graphs.py",
        "-k",
        "(triton and not interpreter and not hopper) or cuda",
    ),
    components=None,
    states=16,
    scans=((512, 384, 256), (512, 192, 128), (512, 96, 64), (1792, 48, 32), (1792, 128, 88)),
    largest_for_torch=1 << 22,
    knobs=((512, 384, 256), (512, 96, 64)),
    tries=None,
    channels=(512, 1792, 128, 256, 384),
    blocks=((256, 384, 256), (256, 192, 128), (256, 96, 64)),
    deconvolutions=((320, 256, 3, 32, 48), (256, 256, 3, 64, 96), (256, 256, 3, 128, 192), (256, 3, 5, 256, 384)),
    preset="full",
    images=((768, 512), (1920, 1280)),
    across=(("tiny", 768, 512), ("full", 384, 256)),
    train=(8, 256),
    end=("--lr", "1e-3", "--schedule", "cosine", "--epochs", "1000000"),
    rounds=7,
    repeat=3,
)

DRY = Plan(
    device="cpu",
    tests=("tests/test_triton.py", "-k", "test_kernels_equal_the_reference and row"),
    components=1,
    states=2,
    scans=((3, 1, 2),),
    largest_for_torch=1 << 24,
    knobs=((3, 1, 2),),
    tries=1,
    channels=(3,),
    blocks=((2, 3, 2),),
    deconvolutions=((3, 2, 3, 4, 5), (2, 3, 5, 4, 5)),
    preset="tiny",
    images=((48, 32),),
    across=(("tiny", 48, 32),),
    train=(1, 64),
    end=("--steps", "1", "--batch-size", "1", "--crop", "64", "--cpu"),
    rounds=1,
    repeat=1,
)


@dataclass(frozen=True)
class Inputs:
    """What a run is given.

    Attributes:
        out: where results go.
        images: photographs whose files cross devices; None for noise.
        data: images to train on; None to leave training out.
        flags: of that training, instead of the plan's.
    """

    out: Path
    images: Path | None
    data: Path | None
    flags: str | None = None
