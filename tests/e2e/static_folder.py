"""An oracle's codebooks as a folder of static ones."""

import dataclasses
from pathlib import Path

from horen_vllm.artifact import EntryArtifact, encode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import CodebookName
from horen_vllm.spaces import SpaceManifest, encode_space
from horen_vllm.static import StaticDescription, StaticEntry, write_static
from tests.e2e import rpc
from tests.e2e.oracle import OracleBook

REVISION = 5


def save(folder: Path, name: str, book: OracleBook, fingerprint: str, site: str = "test") -> Path:
    """Write a codebook under ``folder/static``, as ``horen codebook save`` writes one; return that folder."""
    artifacts, entries = ArtifactFolder(folder / "artifacts"), []
    for entry in book.entries:
        _, made = rpc.artifact_of(entry)
        manifest = dataclasses.replace(made.manifest, fingerprint=fingerprint)
        digest = artifacts.put(encode_entry(EntryArtifact(keys=made.keys, values=made.values, manifest=manifest)))
        entries.append(StaticEntry(edit_id=entry.edit_id, sequence=entry.sequence, artifact=digest))
    description = StaticDescription(
        name=CodebookName.parse(name),
        model="test",
        fingerprint=fingerprint,
        site=site,
        revision=REVISION,
        parameters=_parameters(artifacts, book, fingerprint, site),
        entries=tuple(entries),
    )
    write_static(folder / "static", description, artifacts)
    return folder / "static"


def _parameters(artifacts: ArtifactFolder, book: OracleBook, fingerprint: str, site: str) -> MethodParameters:
    parameters = rpc.parameters(book, "cosine")
    space = rpc.space_of(book)
    if space is None:
        return parameters
    manifest = SpaceManifest(
        fingerprint=fingerprint, site=site, window_ratio=book.ratio, span="prompt", prompts=1, source="test"
    )
    return dataclasses.replace(parameters, space=artifacts.put(encode_space(space, manifest)))
