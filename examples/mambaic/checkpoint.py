"""Checkpoints: `x.pt`, a model to code with, and `x.train.pt` next to it, the state to resume training."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambaic.codec import MambaIC
from ssmctx.errors import ArgumentError, CheckpointError
from ssmctx.files import write_whole

FORMAT = "ssmctx-mambaic-1"
_LARGE = 1024  # numbers in a tensor that is worth storing in less
TRAINING_FORMAT = "ssmctx-mambaic-training-1"


def save_checkpoint(path: str | Path, model: MambaIC, training: dict[str, Any]) -> None:
    """Write a model, atomically. `training` says how it was made: numbers, strings, lists and dicts."""
    _save(path, FORMAT, model, {"state_dict": _narrowed(model.state_dict()), "training": training})


def save_training(path: str | Path, model: MambaIC, state: dict[str, Any]) -> None:
    """Write the state of a training, atomically: numbers, strings, tensors, lists and dicts."""
    _save(path, TRAINING_FORMAT, model, {"training": state})


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file. Runs no code from it.

    Raises:
        CheckpointError: no such file, or not a checkpoint of this example.
    """
    return _read(path, FORMAT)


def read_training(path: str | Path, model: MambaIC) -> dict[str, Any]:
    """The state of a training of the same preset and variant as `model`.

    Raises:
        CheckpointError: no such file, none of ours, or of another preset or variant.
    """
    content = _read(path, TRAINING_FORMAT)
    _check_made(model, content)
    return content["training"]


def training_path(path: Path) -> Path:
    """Where the training of checkpoint `path` keeps its state: `x.train.pt` beside `x.pt`."""
    return beside(path, ".train.pt")


def beside(path: Path, ending: str) -> Path:
    """The file beside a checkpoint whose name ends otherwise."""
    return path.with_name(path.name.removesuffix(".pt") + ending)


def load_weights(model: MambaIC, content: dict[str, Any]) -> None:
    """Put a checkpoint's weights into a model of the same preset and variant.

    Raises:
        CheckpointError: the checkpoint is of another preset or variant, or its weights do not fit.
    """
    _check_made(model, content)
    try:
        model.load_state_dict(content["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"the checkpoint's weights do not fit preset {model.preset!r} ({error})") from None


def load_model(path: str | Path, device: str = "cpu") -> MambaIC:
    """The model of a checkpoint, in evaluation mode and ready to code.

    Raises:
        CheckpointError: the file is missing, not ours, or does not fit its preset.
    """
    content = read_checkpoint(path)
    try:
        model = MambaIC(content["preset"], content["variant"])
    except ArgumentError as error:  # made elsewhere: with another release, or with a package that is not installed here
        raise CheckpointError(f"{path} cannot be used here: {error}") from None
    load_weights(model, content)
    model.update()
    model.lmbda = _lambdas(model, content["training"])
    return model.eval().to(device)


@torch.no_grad()
def round_to_half(model: MambaIC) -> None:
    """Round large weights to numbers of float16, which a checkpoint stores in half the space; they stay float32."""
    for weight in model.parameters():
        if weight.numel() >= _LARGE:
            weight.copy_(weight.half())


def _narrowed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers, as float16 where a large tensor holds no others."""
    large = {name: x for name, x in state.items() if x.dtype == torch.float32 and x.numel() >= _LARGE}
    return {**state, **{name: x.half() for name, x in large.items() if torch.equal(x.half().float(), x)}}


def _lambdas(model: MambaIC, training: dict[str, Any]) -> float | list[float] | None:
    """What `ImageCodec.lmbda` takes; None where the model was trained for another distortion than MSE."""
    if training.get("metric", "mse") != "mse":
        return None
    if "lmbda_range" not in training:
        return training.get("lmbda")
    low, high = training["lmbda_range"]
    steps = model.latent_codec.gains.count - 1
    return [low * (high / low) ** (i / max(1, steps)) for i in range(steps + 1)]


def _check_made(model: MambaIC, content: dict[str, Any]) -> None:
    for flag in ("preset", "variant"):
        if content[flag] != getattr(model, flag):
            raise CheckpointError(
                f"the checkpoint holds a {content[flag]!r} model, not {getattr(model, flag)!r}: change --{flag}"
            )


def _save(path: str | Path, form: str, model: MambaIC, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save({"format": form, "preset": model.preset, "variant": model.variant, **content}, buffer)
    write_whole(path, buffer.getvalue())


def _read(path: str | Path, form: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint {path}: train one with `train --out {path}`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load fails in as many ways as files can be foreign
        first_line = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} is not a checkpoint, or is damaged ({first_line}): train one with `train`"
        ) from None
    if not isinstance(content, dict) or content.get("format") != form:
        raise CheckpointError(f"{path} is not a checkpoint of this example ({form}): train one with `train`")
    return {"variant": "mambaic", **content}  # the first checkpoints have no `variant` entry
