"""Two installations: each a registry, an artifact folder, a control plane and a worker that makes real entries."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.artifact import EntryArtifact, EntryManifest, decode_entry, encode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.core.presets import ValueMode
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import EditRecord, EditSpec, Publication
from horen_vllm.registry.store import SqlRegistry


@dataclass(frozen=True)
class Place:
    """One installation."""

    registry: SqlRegistry
    artifacts: ArtifactFolder
    client: HorenClient
    settings: ControlSettings

    def publish(
        self,
        book: CodebookName,
        prompt: str,
        *,
        threshold: float | None = None,
        splits: tuple[tuple[str, float], ...] = (),
        width: int = 5,
    ) -> EditRecord:
        """Submit an edit, make an entry for it, and publish that."""
        edit = self.registry.submit(book, EditSpec(prompt=prompt, target=f"of {prompt}"))
        (claim,) = self.registry.claim("worker", lease_s=30.0, fingerprint=self.settings.fingerprint)
        assert claim.edit.edit_id == edit.edit_id
        artifact = self.artifacts.put(self.entry(edit, splits, width))
        base = self.registry.get_codebook(book).revision
        publication = Publication(artifact=artifact, base_revision=base, threshold=threshold)
        (made,) = self.registry.publish([(claim, publication)])
        return made

    def entry(self, edit: EditRecord, splits: tuple[tuple[str, float], ...], width: int) -> bytes:
        """Return the file of an entry whose numbers follow from its edit's prompt."""
        generator = torch.Generator().manual_seed(len(edit.spec.prompt))
        manifest = EntryManifest(
            edit_id=edit.edit_id,
            fingerprint=self.settings.fingerprint,
            site=self.settings.site,
            value_mode=ValueMode.SEQUENCE,
            span=2,
            chunk=1,
            target_ids=(1,),
            normalised_prompt=edit.spec.prompt,
            trained_end=False,
            loss=0.0,
            steps=0,
            splits=splits,
        )
        keys = F.normalize(torch.randn(1, 6, generator=generator), dim=-1)
        return encode_entry(
            EntryArtifact(keys=keys, values=torch.randn(2, width, generator=generator), manifest=manifest)
        )

    def shape(self, book: CodebookName) -> list[tuple[str, str, bytes]]:
        """Return what a codebook answers with: prompt, target and numbers of each entry, in order."""
        found = []
        for ref in self.registry.entries(book):
            spec = self.registry.get_edit(ref.edit_id).spec
            entry = decode_entry(self.artifacts.read(ref.artifact))
            numbers = entry.keys.numpy().tobytes() + entry.values.numpy().tobytes()
            found.append((spec.prompt, spec.target, numbers))
        return found


@pytest.fixture
def place(tmp_path: Path, empty_database: Path, settings: ControlSettings) -> Iterator[Callable[[str], Place]]:
    """Opens an installation by name."""
    opened: list[Callable[[], None]] = []

    def open_place(name: str) -> Place:
        folder = tmp_path / name
        shutil.copytree(empty_database.parent, folder)
        registry = SqlRegistry(f"sqlite:///{folder / empty_database.name}")
        here = replace(settings, artifacts=str(folder / "artifacts"))
        server = serve(registry, here)
        client = HorenClient(server.address, timeout_s=10.0)
        opened.extend((registry.close, server.stop, client.close))
        return Place(registry, ArtifactFolder(folder / "artifacts"), client, here)

    yield open_place
    for close in reversed(opened):
        close()


@pytest.fixture
def here(place: Callable[[str], Place]) -> Place:
    return place("here")


@pytest.fixture
def there(place: Callable[[str], Place]) -> Place:
    return place("there")


@pytest.fixture
def book(here: Place) -> CodebookName:
    return here.client.create_codebook("facts", preset="cosine", threshold=0.85).name


@pytest.fixture
def copy(there: Place) -> CodebookName:
    return there.client.create_codebook("copy", preset="cosine", threshold=0.5).name
