"""Fitted routing spaces, and the background queries that thresholds follow, as files named by content hash.

Knows the file formats; does not know how a space is fitted or who applies it.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from horen_vllm.core.routing import RoutingSpace
from horen_vllm.errors import DataLoss, FailedPrecondition

FORMAT_VERSION: Final = 1
_MEAN, _MATRIX, _RARITY, _WORDS = "space.mean", "space.matrix", "space.rarity", "space.words"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceManifest:
    """What a space or a background was made for, and from what."""

    fingerprint: str
    """Base model whose activations it is fitted on."""
    site: str
    window_ratio: float
    span: str
    """Query span (``presets.SpanMode``)."""
    prompts: int
    """Distinct background prompts."""
    source: str
    """Where the prompts came from: ``built-in``, or the file's name."""
    format_version: int = FORMAT_VERSION


def encode_space(space: RoutingSpace, manifest: SpaceManifest) -> bytes:
    """Return the file content of a space; equal spaces give equal bytes."""
    data: bytes = save(space_tensors(space), metadata={"horen-space": json.dumps(asdict(manifest), sort_keys=True)})
    return data


def decode_space(data: bytes, fingerprint: str) -> RoutingSpace:
    """Read what `encode_space` wrote, for a base model.

    Raises
    ------
    DataLoss
        ``artifact_unreadable``.
    FailedPrecondition
        ``fingerprint_mismatch``, for a space that was fitted on another model.
    """
    tensors = _decoded(data, "horen-space", fingerprint)
    space = _space_of(tensors)
    if space is None:
        raise DataLoss("the file is not a routing space.", code="artifact_unreadable")
    return space


def encode_background(queries_BW: torch.Tensor, manifest: SpaceManifest) -> bytes:
    """Return the file content of background queries [B, W], unit rows in the codebook's routing space."""
    metadata = {"horen-background": json.dumps(asdict(manifest), sort_keys=True)}
    data: bytes = save({"queries": queries_BW.float().contiguous()}, metadata=metadata)
    return data


def decode_background(data: bytes, fingerprint: str) -> torch.Tensor:
    """Read what `encode_background` wrote; raises as `decode_space`."""
    tensors = _decoded(data, "horen-background", fingerprint)
    if "queries" not in tensors:
        raise DataLoss("the file holds no background queries.", code="artifact_unreadable")
    return tensors["queries"]


def space_tensors(space: RoutingSpace) -> dict[str, torch.Tensor]:
    """Return a space as named tensors."""
    return {
        _MEAN: space.mean.float().contiguous(),
        _MATRIX: space.matrix.float().contiguous(),
        _RARITY: space.rarity.float().contiguous(),
        _WORDS: torch.tensor([space.word_share, space.order, space.word_buckets], dtype=torch.float64),
    }


def read_space(file: Any) -> RoutingSpace | None:
    """Return the space among an open safetensors file's tensors; None when there is none."""
    names = set(file.keys())
    return _space_of({name: file.get_tensor(name) for name in (_MEAN, _MATRIX, _RARITY, _WORDS) if name in names})


def _space_of(tensors: dict[str, torch.Tensor]) -> RoutingSpace | None:
    if _MATRIX not in tensors:
        return None
    share, order, buckets = tensors[_WORDS].tolist()
    return RoutingSpace(tensors[_MEAN], tensors[_MATRIX], tensors[_RARITY], share, int(order), int(buckets))


def _decoded(data: bytes, kind: str, fingerprint: str) -> dict[str, torch.Tensor]:
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        manifest: dict[str, Any] = json.loads(header["__metadata__"][kind])
        made_for, version = manifest["fingerprint"], manifest["format_version"]
        tensors: dict[str, torch.Tensor] = load(data)
    except (KeyError, TypeError, ValueError, SafetensorError) as exc:
        raise DataLoss(f"the file is no {kind.replace('-', ' ')} file.", code="artifact_unreadable") from exc
    if version != FORMAT_VERSION:
        message = f"the file has format version {version}; this build reads {FORMAT_VERSION}."
        raise DataLoss(message, code="artifact_unreadable")
    if made_for != fingerprint:
        message = "the routing space was fitted on another base model: run `horen calibrate` for this one."
        raise FailedPrecondition(message, code="fingerprint_mismatch")
    return tensors
