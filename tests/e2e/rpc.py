"""The sync agent's part for tests: bring a codebook to an engine in two phases, through vLLM's collective RPC."""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horen_vllm.artifact import EntryArtifact, EntryManifest, encode_entry
from horen_vllm.artifacts.store import digest_of
from horen_vllm.core.euclid import lifted_key
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.pack import build_pack, encode_pack
from tests.e2e.oracle import OracleBook, OracleEntry

STAGING_TIMEOUT_S = 60.0
FINGERPRINT = "test"


class RefusedError(Exception):
    """An RPC's refusal, by its code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def call(engine: Any, method: str, body: dict[str, Any]) -> dict[str, Any]:
    """Call one of the plugin's RPCs; every rank must give the same answer, apart from its measurements."""
    answers: list[dict[str, Any]] = [
        json.loads(text) for text in engine.collective_rpc(method, args=(json.dumps(body),))
    ]
    if method == "horen_staged":
        # An update is staged once it is staged everywhere.
        return next((answer for answer in answers if answer.get("state") != "staged"), answers[0])
    if method != "horen_status":
        assert all(answer == answers[0] for answer in answers), answers
    refusal = next((answer["error"] for answer in answers if "error" in answer), None)
    if refusal is not None:
        raise RefusedError(refusal["code"], refusal["message"])
    return answers[0]


@dataclass(frozen=True)
class Staged:
    """An update that the engine has been told of."""

    ticket: str
    codebook: str
    revision: int


def stage(
    engine: Any,
    name: str,
    book: OracleBook,
    folder: Path,
    *,
    revision: int = 1,
    base_revision: int = 0,
    added: tuple[OracleEntry, ...] | None = None,
    removed: tuple[str, ...] = (),
    preset: str = "cosine",
    spoil: bool = False,
) -> Staged:
    """Begin to stage `book` as a revision of codebook `name`; `added` None means all of its entries.

    `spoil` damages the pack after its hash was taken.
    """
    new = book.entries if added is None else added
    space = space_of(book) if base_revision == 0 else None
    data = encode_pack(build_pack([(entry.sequence, *artifact_of(entry)) for entry in new], space))
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest}.pack"
    path.write_bytes(data[:-4] + b"\0\1\2\3" if spoil else data)
    ticket = f"{name}@{revision}-{time.monotonic_ns()}"
    body = {
        "ticket": ticket,
        "codebook": name,
        "base_revision": base_revision,
        "revision": revision,
        "fingerprint": FINGERPRINT,
        "parameters": parameters(book, preset).to_dict(),
        "pack": str(path),
        "sha256": digest,
        "removed": list(removed),
    }
    assert call(engine, "horen_stage", body) == {"ticket": ticket, "state": "staging"}
    return Staged(ticket, name, revision)


def await_staged(engine: Any, staged: Staged) -> None:
    """Return once the update is ready to flip on every rank; RefusedError when it failed."""
    deadline = time.monotonic() + STAGING_TIMEOUT_S
    while (answer := call(engine, "horen_staged", {"ticket": staged.ticket}))["state"] == "staging":
        assert time.monotonic() < deadline, f"{staged} was not staged in {STAGING_TIMEOUT_S} s"
        time.sleep(0.001)
    if answer["state"] == "failed":
        raise RefusedError(answer["error"]["code"], answer["error"]["message"])


def flip(engine: Any, staged: Staged, sequence: int | None = None) -> None:
    """Make a staged update current; without a sequence number the next one is taken."""
    number = call(engine, "horen_status", {})["sequence"] + 1 if sequence is None else sequence
    answer = call(engine, "horen_flip", {"ticket": staged.ticket, "sequence": number})
    assert answer == {"codebook": staged.codebook, "revision": staged.revision}


def apply_book(engine: Any, name: str, book: OracleBook, folder: Path, **options: Any) -> None:
    """Bring a codebook to the engine: stage, wait, flip."""
    staged = stage(engine, name, book, folder, **options)
    await_staged(engine, staged)
    flip(engine, staged)


def drop(engine: Any, name: str) -> None:
    """Remove a codebook."""
    number = call(engine, "horen_status", {})["sequence"] + 1
    assert call(engine, "horen_drop", {"codebook": name, "sequence": number}) == {"codebook": name}


def parameters(book: OracleBook, preset: str) -> MethodParameters:
    """Return the method parameters that say what the oracle's book says."""
    return MethodParameters(
        preset=preset,
        threshold=book.threshold,
        window_ratio=book.ratio,
        beta=book.beta,
        gamma=book.gamma,
        steps=book.steps,
        epsilon=book.epsilon,
        space=digest_of(book.space.matrix.numpy().tobytes()) if book.space is not None else None,
        anchors=book.anchored_threshold is not None,
        anchored_threshold=book.anchored_threshold or 0.0,
        mask_subject=book.masks,
        radius=1.0 if book.radius else None,
        value_mode=ValueMode.REPLACE if book.radius else ValueMode.SEQUENCE,
    )


def space_of(book: OracleBook) -> RoutingSpace | None:
    """Return a book's space as a pack carries it."""
    space = book.space
    if space is None:
        return None
    return RoutingSpace(space.mean, space.matrix, space.rarity, space.share, order=2, word_buckets=space.buckets)


def artifact_of(entry: OracleEntry) -> tuple[str, EntryArtifact]:
    """Return an oracle's entry as a file of the artifact folder holds it, and its hash."""
    manifest = EntryManifest(
        edit_id=entry.edit_id,
        fingerprint=FINGERPRINT,
        site="test",
        value_mode=ValueMode(entry.mode),
        span=entry.span,
        chunk=entry.share if entry.mode == "sequence" else entry.span,
        target_ids=(1,),
        normalised_prompt=entry.edit_id,
        trained_end=False,
        loss=0.0,
        steps=0,
        rank=entry.rank,
        anchors=entry.anchors,
        radius=entry.radius or None,
    )
    keys = lifted_key(entry.keys) if entry.radius else entry.keys
    artifact = EntryArtifact(keys=keys, values=entry.values, manifest=manifest)
    return hashlib.sha256(encode_entry(artifact)).hexdigest(), artifact
