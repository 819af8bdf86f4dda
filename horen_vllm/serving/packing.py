"""Makes the pack of one update: reads and verifies its artifacts, writes one file, chooses the probes.

Pure file work, without vLLM. `python -m horen_vllm.serving.packing` does it in a process of its own, at low priority,
for one update after the other that would hold the API server's interpreter for seconds.
"""

import hashlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from horen_vllm.artifact import EntryArtifact, EntryManifest, decode_entry, named_after
from horen_vllm.artifacts.cached import CacheFolder
from horen_vllm.artifacts.opening import ArtifactSource
from horen_vllm.artifacts.store import ArtifactStore
from horen_vllm.errors import FailedPrecondition, HorenError
from horen_vllm.ids import EditId
from horen_vllm.pack import build_pack, encode_pack
from horen_vllm.registry.models import EntryRef
from horen_vllm.serving.reported import error_fields, reported_error
from horen_vllm.serving.state import Probe
from horen_vllm.spaces import decode_space

MAX_PROBES: Final = 8
"""Entries of one update that the replica asks itself about; of more, a sample."""
_NICENESS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOrder:
    """What goes into a pack, and where to."""

    artifacts: ArtifactSource
    target: Path
    """The file to write."""
    fingerprint: str
    """Base model that every entry must have been made for."""
    seed: str
    """Decides which entries of a large update are probed."""
    entries: tuple[EntryRef, ...]
    space: str | None = None
    """Artifact (sha256, hex) of the routing space that the pack brings along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedUpdate:
    """A pack that stands on disk."""

    path: Path
    sha256: str
    """Of the file, in hex."""
    probes: tuple[Probe, ...]
    without_probe: int
    """Entries that carry no prompt to be asked by."""


def pack_update(order: PackOrder, artifacts: ArtifactStore) -> PackedUpdate:
    """Read and verify the artifacts of `order` and write their pack (temporary file, then rename).

    Parameters
    ----------
    artifacts
        The opened store of `order`.

    Raises
    ------
    NotFound
        ``unknown_artifact``.
    DataLoss
        ``artifact_corrupt`` or ``artifact_unreadable``.
    FailedPrecondition
        ``fingerprint_mismatch``, ``wrong_shape`` or ``artifacts_forbidden``.
    Unavailable
        ``artifacts_unavailable``.
    """
    files = artifacts.read_many(ref.artifact for ref in order.entries)
    read = zip(order.entries, files, strict=True)
    entries = [(ref.sequence, ref.artifact, _entry(data, ref, order)) for ref, data in read]
    space = None if order.space is None else decode_space(artifacts.read(order.space), order.fingerprint)
    data = encode_pack(build_pack(entries, space))
    _write(order.target, data)
    winners = _winners((sequence, entry.manifest) for sequence, _, entry in entries)
    asked = [manifest for manifest in winners if manifest.probe_ids and manifest.target_ids]
    return PackedUpdate(
        path=order.target,
        sha256=hashlib.sha256(data).hexdigest(),
        probes=_sample(asked, order.seed),
        without_probe=len(winners) - len(asked),
    )


def _entry(data: bytes, ref: EntryRef, order: PackOrder) -> EntryArtifact:
    entry = decode_entry(data)
    if entry.manifest.fingerprint != order.fingerprint:
        message = f"entry {ref.edit_id} was trained on another base model than this server's."
        raise FailedPrecondition(message, code="fingerprint_mismatch")
    return named_after(entry, ref.edit_id)


def _write(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Named like its target, so that whoever clears the target's leftovers clears this one too.
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _winners(entries: Iterable[tuple[int, EntryManifest]]) -> Sequence[EntryManifest]:
    """Return one entry a prompt: the one with the highest sequence number, which is the one that will answer."""
    by_prompt: dict[str, EntryManifest] = {}
    for _, manifest in sorted(entries, key=lambda entry: entry[0]):
        by_prompt[manifest.normalised_prompt] = manifest
    return list(by_prompt.values())


def _sample(asked: Sequence[EntryManifest], seed: str) -> tuple[Probe, ...]:
    chosen = random.Random(seed).sample(asked, min(MAX_PROBES, len(asked)))
    return tuple(Probe(edit_id=it.edit_id, prompt_ids=it.probe_ids, target_ids=it.target_ids) for it in chosen)


def order_to_json(order: PackOrder) -> str:
    """Return `order` as text for another process."""
    return json.dumps(asdict(order), default=str)


def order_from_json(text: str) -> PackOrder:
    """Read what `order_to_json` wrote."""
    fields: dict[str, Any] = json.loads(text)
    entries = tuple(EntryRef(**{**entry, "edit_id": EditId(entry["edit_id"])}) for entry in fields["entries"])
    source = fields["artifacts"]
    cache = source["cache"] and CacheFolder(**{**source["cache"], "folder": Path(source["cache"]["folder"])})
    known = {"artifacts": ArtifactSource(**{**source, "cache": cache}), "target": Path(fields["target"])}
    return PackOrder(**{**fields, **known, "entries": entries})


def packed_from_json(text: str) -> PackedUpdate:
    """Read the answer of `main`; raises the `HorenError` that it carries."""
    fields: dict[str, Any] = json.loads(text)
    if "error" in fields:
        raise reported_error(fields["error"])
    probes = tuple(Probe.from_json(probe) for probe in fields["probes"])
    return PackedUpdate(**{**fields, "path": Path(fields["path"]), "probes": probes})


def main() -> None:
    """Answer orders, each a line of JSON on stdin, with the pack's description or ``{"error": ...}``, one a line."""
    os.nice(_NICENESS)
    torch.set_num_threads(1)
    for order in sys.stdin:
        sys.stdout.write(_answer(order) + "\n")
        sys.stdout.flush()


def _answer(text: str) -> str:
    try:
        order = order_from_json(text)
        return json.dumps(asdict(pack_update(order, order.artifacts.open())), default=str)
    except HorenError as exc:
        return json.dumps({"error": error_fields(exc)})


if __name__ == "__main__":
    main()
