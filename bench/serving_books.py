"""Codebooks of random entries as static folders, for servers that are benchmarked without a control plane.

Keys are random directions, so no prompt is near one: whether an entry fires is decided by the threshold alone. A book
with threshold 1 never fires, one with threshold -1 always does, at every answered token (one vector for the whole
answer, as in the paper). Each is there both ways, with the same entries and so the same files; the server holds them
twice.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from bench.made_entries import EntryForm
from horen_vllm.artifact import EntryArtifact, encode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.presets import MethodParameters, SpanMode, ValueMode, preset_parameters
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.fingerprint import model_fingerprint, read_config
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.spaces import SpaceManifest, encode_space
from horen_vllm.static import StaticDescription, StaticEntry, write_description

RAW, WHITENED = "raw", "whitened"
"""Keys as the layer reads them, refined once (`horen-paper`); in a fitted space, not refined (`calibrated`)."""
_RANK, _BUCKETS, _RARITIES, _WORD_SHARE = 1024, 1024, 1 << 16, 0.3
"""What a calibration makes of a layer that is wide enough."""
_DONE: Final = "done"
_AT_ONCE: Final = 1024
_SPAN: Final = 4096
"""Positions that the value is written at: more than any answer has."""


@dataclass(frozen=True, slots=True)
class Books:
    """Codebooks of one size.

    Attributes
    ----------
    keys
        `RAW` or `WHITENED`.
    entries
        Entries of all codebooks together.
    codebooks
        Number of codebooks. To the engine a codebook is one, whosever it is; without a control plane there is one
        tenant.
    """

    keys: str
    entries: int
    codebooks: int

    @property
    def label(self) -> str:
        """Return how a result names it."""
        return f"{self.keys}-{self.entries}-in-{self.codebooks}"

    def width(self, target: "Target") -> int:
        """Return the numbers of a key."""
        return target.d_in if self.keys == RAW else min(_RANK, target.d_in) + _BUCKETS

    def names(self, *, fires: bool) -> list[str]:
        """Return the names of the codebooks whose entries always fire, or never; no other size has the same."""
        kind = "fires" if fires else "silent"
        return [f"{self.keys}-{self.entries}-{kind}-{number}-of-{self.codebooks}" for number in range(self.codebooks)]


def site_of(layer: int) -> str:
    """Return the module name of a layer's down projection."""
    return f"model.layers.{layer}.mlp.down_proj"


@dataclass(frozen=True, slots=True)
class Target:
    """The model that codebooks are made for."""

    folder: Path
    site: str
    fingerprint: str
    d_in: int
    d_out: int

    @classmethod
    def open(cls, folder: Path, layer: int) -> "Target":
        """Return the down projection of a layer of a model in a folder."""
        config: dict[str, Any] = read_config(folder)
        site = site_of(layer)
        return cls(
            folder, site, model_fingerprint(folder, site), int(config["intermediate_size"]), int(config["hidden_size"])
        )


def write_books(root: Path, target: Target, books: Books) -> Path:
    """Write the codebooks into a folder below `root`, unless they are there, and return that folder.

    After an interruption it goes on where it was: files that are there as a whole are kept. Nothing is made durable; a
    benchmark's codebooks can be made again.
    """
    folder = root / target.fingerprint[:12] / books.label
    if not (folder / _DONE).exists():
        space = _space_file(target) if books.keys == WHITENED else None
        width = books.width(target)
        for place, (silent, fires) in enumerate(zip(books.names(fires=False), books.names(fires=True), strict=True)):
            share = books.entries // books.codebooks + (place < books.entries % books.codebooks)
            book = _write(folder, target, silent, _entries(target, width, place, share), space)
            _link(folder, book, fires)
        (folder / _DONE).touch()
    return folder


def link_books(root: Path, folders: Sequence[Path]) -> Path:
    """Return a folder that has the codebooks of all `folders`, whose names must differ."""
    root.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        for book in folder.glob("*/*/codebook.json"):
            link = root / book.parent.relative_to(folder)
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(book.parent.absolute(), target_is_directory=True)
    return root


def window_ratio(target: Target) -> float:
    """Return the share of a prompt that a routed request pools, and so computes itself."""
    return _parameters(target).window_ratio


def _write(
    folder: Path, target: Target, name: str, entries: Iterator[EntryArtifact], space: bytes | None
) -> StaticDescription:
    codebook = CodebookName(DEFAULT_TENANT, name)
    files = _Files(folder / codebook.tenant / codebook.codebook)
    parameters = _parameters(target)
    if space is not None:
        parameters = replace(parameters, preset="calibrated", steps=0, span=SpanMode.CONTENT, space=files.put(space))
    described = StaticDescription(
        name=codebook,
        model="bench",
        fingerprint=target.fingerprint,
        site=target.site,
        revision=1,
        parameters=parameters,
        entries=tuple(
            StaticEntry(edit_id=entry.manifest.edit_id, sequence=number, artifact=files.put(encode_entry(entry)))
            for number, entry in enumerate(entries)
        ),
    )
    write_description(folder, described)
    return described


def _link(folder: Path, book: StaticDescription, name: str) -> None:
    """Write a second codebook of the same files, which always fires."""
    other = CodebookName(DEFAULT_TENANT, name)
    source, target = (folder / it.tenant / it.codebook for it in (book.name, other))
    for path in source.glob("??/*.safetensors"):
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.link(path, target / path.parent.name / path.name)
    always = replace(book.parameters, threshold=-1.0)
    write_description(folder, replace(book, name=other, parameters=always))


class _Files:
    """Artifacts of one codebook, written plainly."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths = ArtifactFolder(root)
        for number in range(256):
            (root / f"{number:02x}").mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Write a file unless it is there, and return its sha256 in hex."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._paths.path(digest)
        # A file that an interrupted run began is shorter.
        if not path.exists() or path.stat().st_size != len(data):
            path.write_bytes(data)
        return digest


def _parameters(target: Target) -> MethodParameters:
    return replace(preset_parameters("horen-paper", str(target.folder), 1.0), value_mode=ValueMode.ANSWER)


def _entries(target: Target, width: int, salt: int, count: int) -> Iterator[EntryArtifact]:
    generator = torch.Generator().manual_seed(1_000_003 * salt + width)
    form = EntryForm(fingerprint=target.fingerprint, site=target.site, mode=ValueMode.ANSWER, span=_SPAN, chunk=_SPAN)
    # Many at a time: torch's threads cost more than a few numbers do.
    for first in range(0, count, _AT_ONCE):
        rows = min(_AT_ONCE, count - first)
        keys = torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=-1)
        values = 0.01 * torch.randn(rows, target.d_out, generator=generator)
        for row in range(rows):
            yield form.entry(f"e{salt}-{first + row}", keys[row : row + 1], values[row : row + 1])


def _space_file(target: Target) -> bytes:
    generator = torch.Generator().manual_seed(target.d_in)
    rank = min(_RANK, target.d_in)
    matrix = torch.randn(rank, target.d_in, generator=generator) / target.d_in**0.5
    space = RoutingSpace(torch.zeros(target.d_in), matrix, torch.ones(_RARITIES), _WORD_SHARE, 1, _BUCKETS)
    parameters = _parameters(target)
    manifest = SpaceManifest(
        fingerprint=target.fingerprint,
        site=target.site,
        window_ratio=parameters.window_ratio,
        span=SpanMode.CONTENT,
        prompts=1,
        source="random",
    )
    return encode_space(space, manifest)
