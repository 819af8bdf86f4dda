"""Packs: verified, written whole, sampled for probes; and gone when their update is over."""

import asyncio
import os
import time
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from horen_vllm.artifacts.cached import CacheFolder
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.artifacts.opening import ArtifactSource
from horen_vllm.control.messages import CodebookView, DeltaView
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.errors import HorenError
from horen_vllm.ids import EditId
from horen_vllm.pack import read_pack
from horen_vllm.registry.models import EntryRef
from horen_vllm.serving import packer as packer_module
from horen_vllm.serving.packer import Packer
from horen_vllm.serving.packing import MAX_PROBES, PackedUpdate, PackOrder, order_from_json, order_to_json, pack_update
from horen_vllm.spaces import SpaceManifest, encode_space
from tests.unit.serving.live.world import FINGERPRINT, PARAMETERS, book, entry, ids


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFolder:
    return ArtifactFolder(tmp_path / "artifacts")


@pytest.fixture
def packer(tmp_path: Path) -> Packer:
    return Packer(artifacts=ArtifactSource(location=str(tmp_path / "artifacts")), folder=tmp_path / "packs", owner="me")


def ref(artifacts: ArtifactFolder, number: int, prompt: str | None = None, **manifest: Any) -> EntryRef:
    edit = f"e{number}"
    digest = artifacts.put(entry(edit, prompt or f"prompt {number}", "Ada", **manifest))
    return EntryRef(edit_id=EditId(edit), sequence=number, artifact=digest)


def order(tmp_path: Path, *entries: EntryRef, seed: str = "s") -> PackOrder:
    return PackOrder(
        artifacts=ArtifactSource(location=str(tmp_path / "artifacts")),
        target=tmp_path / "packs" / "me-t.pack",
        fingerprint=FINGERPRINT,
        seed=seed,
        entries=entries,
    )


def space_of(artifacts: ArtifactFolder, fingerprint: str = FINGERPRINT) -> str:
    """Store a small routing space and return its digest."""
    space = RoutingSpace(torch.ones(4), torch.eye(2, 4), torch.ones(3), 0.5, 1, 3)
    manifest = SpaceManifest(
        fingerprint=fingerprint, site="s", window_ratio=0.6, span="prompt", prompts=1, source="built-in"
    )
    return artifacts.put(encode_space(space, manifest))


def pack(packer: Packer, update: DeltaView) -> PackedUpdate:
    """Pack an update as the agent does, and end the process that it may have taken."""

    async def run() -> PackedUpdate:
        async with aclosing(packer):
            return await packer.pack(update, "t")

    return asyncio.run(run())


def delta(*entries: EntryRef, base: int = 1, space: str | None = None) -> DeltaView:
    view = CodebookView(
        name=book("a"),
        model="m",
        fingerprint=FINGERPRINT,
        site="s",
        parameters=replace(PARAMETERS, space=space),
        revision=2,
        entry_count=len(entries),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return DeltaView(codebook=view, base=base, revision=2, added=entries, removed=())


def test_a_pack_has_the_entries_and_the_hash_that_it_says(tmp_path: Path, artifacts: ArtifactFolder) -> None:
    packed = pack_update(order(tmp_path, ref(artifacts, 1), ref(artifacts, 2)), artifacts)
    rows = read_pack(packed.path, packed.sha256).rows
    assert [(row.edit_id, row.sequence) for row in rows] == [("e1", 1), ("e2", 2)]
    assert {(it.edit_id, it.prompt_ids, it.target_ids) for it in packed.probes} == {
        ("e1", ids("prompt 1"), ids("Ada")),
        ("e2", ids("prompt 2"), ids("Ada")),
    }


@pytest.mark.parametrize("inline_bytes", [1 << 22, 0])
def test_an_update_from_nothing_brings_the_codebooks_space(
    artifacts: ArtifactFolder, packer: Packer, monkeypatch: pytest.MonkeyPatch, inline_bytes: int
) -> None:
    monkeypatch.setattr(packer_module, "INLINE_SPACE_BYTES", inline_bytes)
    digest = space_of(artifacts)
    whole, change = (pack(packer, delta(base=base, space=digest)) for base in (0, 1))
    assert change.sha256 != whole.sha256
    packed = pack(packer, delta(ref(artifacts, 1), base=0, space=digest))
    space = read_pack(packed.path, packed.sha256).space
    assert space is not None
    assert torch.equal(space.matrix, torch.eye(2, 4))
    packed = pack(packer, delta(ref(artifacts, 1), base=1, space=digest))
    assert read_pack(packed.path, packed.sha256).space is None


def test_a_space_of_another_base_model_is_refused(artifacts: ArtifactFolder, packer: Packer) -> None:
    with pytest.raises(HorenError) as caught:
        pack(packer, delta(base=0, space=space_of(artifacts, "other")))
    assert caught.value.code == "fingerprint_mismatch"


def test_an_update_that_only_removes_has_an_empty_pack(tmp_path: Path, artifacts: ArtifactFolder) -> None:
    packed = pack_update(order(tmp_path), artifacts)
    assert read_pack(packed.path, packed.sha256).rows == ()
    assert packed.probes == ()


def test_of_many_entries_a_seeded_sample_is_probed(tmp_path: Path, artifacts: ArtifactFolder) -> None:
    entries = [ref(artifacts, number) for number in range(20)]
    first, again = (pack_update(order(tmp_path, *entries), artifacts).probes for _ in range(2))
    assert len({probe.edit_id for probe in first}) == MAX_PROBES
    assert first == again
    assert pack_update(order(tmp_path, *entries, seed="other"), artifacts).probes != first


def test_of_one_prompt_the_highest_sequence_is_probed(tmp_path: Path, artifacts: ArtifactFolder) -> None:
    entries = [ref(artifacts, number, "who?") for number in (3, 1, 2)]
    assert [probe.edit_id for probe in pack_update(order(tmp_path, *entries), artifacts).probes] == ["e3"]


def test_entries_without_a_prompt_are_counted(tmp_path: Path, artifacts: ArtifactFolder) -> None:
    packed = pack_update(order(tmp_path, ref(artifacts, 1, probe=False), ref(artifacts, 2)), artifacts)
    assert ([probe.edit_id for probe in packed.probes], packed.without_probe) == (["e2"], 1)


def test_an_entry_goes_by_the_name_that_the_codebook_gives_it(tmp_path: Path, artifacts: ArtifactFolder) -> None:
    # The edit that made it was retired, and another one had said the same.
    heir = replace(ref(artifacts, 1), edit_id=EditId("e9"), sequence=9)
    packed = pack_update(order(tmp_path, heir), artifacts)
    assert [probe.edit_id for probe in packed.probes] == ["e9"]
    (row,) = read_pack(packed.path, packed.sha256).rows
    assert (row.edit_id, row.sequence, row.artifact) == ("e9", 9, heir.artifact)


def broken(artifacts: ArtifactFolder, code: str) -> EntryRef:
    """Return an entry that cannot be packed."""
    if code == "fingerprint_mismatch":
        return ref(artifacts, 1, fingerprint="other")
    good = ref(artifacts, 1)
    if code == "artifact_corrupt":
        artifacts.path(good.artifact).write_bytes(b"x")
    else:
        artifacts.path(good.artifact).unlink()
    return good


@pytest.mark.parametrize(
    ("code", "inline"),
    [
        ("fingerprint_mismatch", 16),
        ("artifact_corrupt", 16),
        ("unknown_artifact", 16),
        ("unknown_artifact", 0),
    ],
)
def test_what_cannot_be_packed_is_refused_by_its_code_and_leaves_nothing(
    tmp_path: Path,
    artifacts: ArtifactFolder,
    packer: Packer,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    inline: int,
) -> None:
    monkeypatch.setattr(packer_module, "INLINE_ENTRIES", inline)
    with pytest.raises(HorenError) as caught:
        pack(packer, delta(broken(artifacts, code)))
    assert caught.value.code == code
    assert list((tmp_path / "packs").glob("*")) == []


def test_a_process_of_its_own_makes_the_same_pack(
    artifacts: ArtifactFolder, packer: Packer, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = delta(ref(artifacts, 1), ref(artifacts, 2, probe=False))
    inline = pack(packer, update)
    monkeypatch.setattr(packer_module, "INLINE_ENTRIES", 1)
    assert pack(packer, update) == inline


def test_an_order_survives_the_way_to_another_process(tmp_path: Path, artifacts: ArtifactFolder) -> None:
    asked = order(tmp_path, ref(artifacts, 1))
    assert order_from_json(order_to_json(asked)) == asked
    cache = CacheFolder(folder=tmp_path / "cache", max_bytes=1 << 20)
    remote = replace(asked, artifacts=ArtifactSource(location="s3://bucket/prefix", cache=cache))
    assert order_from_json(order_to_json(remote)) == remote


def test_leftovers_of_this_engine_and_old_ones_are_cleared_others_stay(tmp_path: Path, packer: Packer) -> None:
    packs = tmp_path / "packs"
    packs.mkdir()
    for name in ("me-1.pack", "me-2.pack.tmp123", "other-1.pack", "other-2.pack", "notes.txt"):
        (packs / name).write_bytes(b"")
    old = time.time() - 2 * 3600
    os.utime(packs / "other-2.pack", (old, old))
    packer.clear()
    assert {path.name for path in packs.iterdir()} == {"other-1.pack", "notes.txt"}
