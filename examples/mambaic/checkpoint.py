"""Checkpoints: one file that holds a model's preset and weights, and what training needs to go on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from mambaic.codec import PRESETS, VARIANTS, MambaIC
from ssmctx.entropy.container import write_whole
from ssmctx.errors import CheckpointError

FORMAT = "ssmctx-mambaic-1"


def save_checkpoint(path: str | Path, model: MambaIC, training: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. `training` may hold numbers, strings, tensors, lists and dicts."""
    buffer = io.BytesIO()
    made = {"preset": model.preset, "variant": model.variant}
    torch.save({"format": FORMAT, **made, "state_dict": model.state_dict(), "training": training}, buffer)
    write_whole(path, buffer.getvalue())


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file. Runs no code from it.

    Raises:
        CheckpointError: no such file, or none of ours.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint {path}: train one with `train --out {path}`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load fails in as many ways as files can be foreign
        first_line = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is no checkpoint, or damaged ({first_line}): train one with `train`") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this example ({FORMAT}): train one with `train`")
    return {"variant": "mambaic", **content}  # the first checkpoints knew no variants


def load_weights(model: MambaIC, content: dict[str, Any]) -> None:
    """Put a checkpoint's weights into a model of the same preset and variant.

    Raises:
        CheckpointError: the checkpoint is of another preset or variant, or its weights do not fit.
    """
    for flag in ("preset", "variant"):
        if content[flag] != getattr(model, flag):
            raise CheckpointError(
                f"the checkpoint holds a {content[flag]!r} model, not {getattr(model, flag)!r}: change --{flag}"
            )
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
    for flag, known in (("preset", PRESETS), ("variant", VARIANTS)):
        if content[flag] not in known:
            raise CheckpointError(f"{path} is of unknown {flag} {content[flag]!r}; known: {', '.join(known)}")
    model = MambaIC(content["preset"], content["variant"])
    load_weights(model, content)
    model.update()
    return model.eval().to(device)
