"""A codec as the laws see it: CompressAI's contract, for latent codecs and for whole models.

forward(x)                   -> {"y_hat" or "x_hat", "likelihoods": {name: tensor}}
compress(x)                  -> {"strings": nested bytes, "shape": anything, maybe "y_hat"}
decompress(strings, shape)   -> {"y_hat" or "x_hat"}

A latent codec takes y and gives y_hat; a whole model takes x and gives x_hat, which its decoder may clamp to 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssmctx.codec.tables import update_tables as _update_tables
from ssmctx.entropy.switches import evaluation_mode
from ssmctx.errors import ArgumentError
from ssmctx.testing.broken import LawBroken, attempt, difference

__all__ = [
    "Coded",
    "code",
    "count_bits",
    "decode",
    "estimate",
    "estimated_bits",
    "evaluating",
    "of_image",
    "ready",
    "streams",
    "update_tables",
    "with_streams",
]


@dataclass(frozen=True)
class Coded:
    """What `compress` made.

    Attributes:
        strings: nested bytes, as the codec gave them.
        shape: as the codec gave it.
        y_hat: the encoder's own reconstruction of the latent, if it gave one.
        whole: the dict itself.
    """

    strings: Any
    shape: Any
    y_hat: Tensor | None
    whole: Mapping[str, Any]


@contextmanager
def evaluating(codec: object) -> Iterator[None]:
    """Evaluation mode without gradients, temporarily; the modes of all submodules are restored."""
    with torch.no_grad(), evaluation_mode(codec) if isinstance(codec, nn.Module) else nullcontext():
        yield


def estimate(codec: Any, x: Tensor, law: str) -> Mapping[str, Any]:
    """forward in evaluation mode.

    Raises:
        ArgumentError: the codec lacks a method of the contract.
        LawBroken: it raised, changed its input, or its dict lacks "likelihoods".
    """
    _check_codec(codec)
    out = _untouched(law, "forward", codec if callable(codec) else codec.forward, codec, x)
    if not isinstance(out, Mapping) or "likelihoods" not in out:
        raise LawBroken(law, f'forward must return a dict with "likelihoods", got {_keys(out)}')
    return out


def code(codec: Any, x: Tensor, law: str) -> Coded:
    """compress.

    Raises:
        ArgumentError: the codec lacks a method of the contract, or its "strings" are no nested bytes.
        LawBroken: it raised, changed its input, or its dict lacks "strings" or "shape".
    """
    _check_codec(codec)
    out = _untouched(law, "compress", codec.compress, codec, x)
    if not isinstance(out, Mapping) or not {"strings", "shape"} <= set(out):
        raise LawBroken(law, f'compress must return a dict with "strings" and "shape", got {_keys(out)}')
    streams(out["strings"])
    return Coded(out["strings"], out["shape"], out.get("y_hat"), out)


def decode(codec: Any, strings: Any, shape: Any, law: str, what: str = "decompress") -> tuple[str, Tensor]:
    """decompress: the key of the reconstruction, "x_hat" or "y_hat", and the reconstruction.

    Raises:
        LawBroken: it raised, or its dict has neither.
    """
    with evaluating(codec):
        out = attempt(law, what, codec.decompress, strings, shape)
    key = "x_hat" if isinstance(out, Mapping) and "x_hat" in out else "y_hat"
    if not isinstance(out, Mapping) or not isinstance(out.get(key), Tensor):
        raise LawBroken(law, f'{what} must return a dict with "y_hat" or "x_hat", got {_keys(out)}')
    return key, out[key]


def streams(strings: Any) -> list[bytes]:
    """All streams, whatever they are nested in, in order.

    Raises:
        ArgumentError: something else than bytes, lists, tuples and dicts.

    Examples:
        >>> from ssmctx.testing.contract import streams
        >>> streams([[b"y"], {"z": [b"z0", b"z1"]}])
        [b'y', b'z0', b'z1']
    """
    if isinstance(strings, (bytes, bytearray)):
        return [bytes(strings)]
    if isinstance(strings, (list, tuple)):
        return [stream for part in strings for stream in streams(part)]
    if isinstance(strings, Mapping):
        return [stream for part in strings.values() for stream in streams(part)]
    raise ArgumentError(f"strings must be bytes nested in lists, tuples or dicts, got {type(strings).__name__}")


def with_streams(strings: Any, replacements: list[bytes]) -> Any:
    """The same nesting around other streams, given in the order of `streams`."""
    rest = iter(replacements)

    def rebuild(part: Any) -> Any:
        if isinstance(part, (bytes, bytearray)):
            return next(rest)
        if isinstance(part, Mapping):
            return {key: rebuild(value) for key, value in part.items()}
        return [rebuild(value) for value in part]

    return rebuild(strings)


def of_image(strings: Any, image: int, batch: int, law: str) -> Any:
    """The streams of one image of a batch, in the nesting of a batch of one.

    Raises:
        LawBroken: an innermost list does not have one stream per image.

    Examples:
        >>> from ssmctx.testing.contract import of_image
        >>> of_image([[b"y0", b"y1"], [b"z0", b"z1"]], 1, 2, "round trip")
        [[b'y1'], [b'z1']]
    """
    if batch == 1:
        return strings
    if isinstance(strings, Mapping):
        return {key: of_image(part, image, batch, law) for key, part in strings.items()}
    if isinstance(strings, (list, tuple)) and not any(isinstance(part, (bytes, bytearray)) for part in strings):
        return [of_image(part, image, batch, law) for part in strings]
    if isinstance(strings, (list, tuple)) and len(strings) == batch:
        return [strings[image]]
    count = len(strings) if isinstance(strings, (list, tuple)) else 1
    raise LawBroken(
        law,
        f"compress gave {count} streams where a batch of {batch} needs {batch}, one per image",
        "one coder runs over the whole batch, so that no image can be stored or decoded alone",
    )


def count_bits(strings: Any) -> int:
    """Bits in all streams: 8 * the bytes.

    Args:
        strings: streams, whatever they are nested in.

    Examples:
        >>> from ssmctx.testing import count_bits
        >>> count_bits([[b"four", b"two"], [b""]])
        56
    """
    return 8 * sum(len(stream) for stream in streams(strings))


def estimated_bits(out: Mapping[str, Any]) -> dict[str, float]:
    """Bits that forward's likelihoods stand for, by latent; -log2 summed."""
    likelihoods = out["likelihoods"]
    named = likelihoods.items() if isinstance(likelihoods, Mapping) else enumerate(likelihoods)
    return {str(name): -p.double().log2().sum().item() for name, p in named}


def update_tables(codec: Any) -> None:
    """Rebuild a codec's coding tables: its own `update(force=True)`, or that of each part that has one.

    A bare latent codec of CompressAI has no `update`; its entropy models get what `CompressionModel.update` gives.

    Args:
        codec: a model or latent codec; or what holds one.

    Examples:
        >>> from compressai.entropy_models import EntropyBottleneck
        >>> from compressai.latent_codecs import EntropyBottleneckLatentCodec
        >>> from ssmctx.testing import update_tables
        >>> codec = EntropyBottleneckLatentCodec(entropy_bottleneck=EntropyBottleneck(2))
        >>> update_tables(codec)
        >>> codec.entropy_bottleneck.quantized_cdf.shape[0]
        2
    """
    _update_tables(codec, force=True)


def ready(factory: Callable[[], Any], seed: int = 0) -> Any:
    """A codec to be judged: in evaluation mode, its tables built, its random weights those of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = factory()
    if isinstance(codec, nn.Module):
        codec.eval()
    update_tables(codec)
    return codec


def _check_codec(codec: Any) -> None:
    missing = [name for name in ("compress", "decompress") if not callable(getattr(codec, name, None))]
    if not callable(codec) and not callable(getattr(codec, "forward", None)):
        missing.insert(0, "forward")
    if missing:
        raise ArgumentError(
            f"a codec needs forward, compress and decompress, {type(codec).__name__} has no {' and no '.join(missing)}"
        )


def _untouched(law: str, what: str, call: Any, codec: Any, x: Tensor) -> Any:
    given = x.clone()
    with evaluating(codec):
        out = attempt(law, what, call, x)
    if found := difference(x, given):
        raise LawBroken(
            law, f"{what} changed its input: {found}", "an in-place operation, such as x -= mean or ReLU(inplace)"
        )
    return out


def _keys(out: Any) -> str:
    return f"the keys {sorted(map(str, out))}" if isinstance(out, Mapping) else type(out).__name__
