"""``horen db gc``: what nothing needs goes, in two calls; what the registry does not know stays."""

import json
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.registry.store import SqlRegistry

from .conftest import Run


@pytest.fixture
def folder(tmp_path: Path) -> ArtifactFolder:
    return ArtifactFolder(tmp_path / "artifacts")


@pytest.fixture
def where(tmp_path: Path, registry: SqlRegistry) -> tuple[str, ...]:
    return (
        "--database",
        f"sqlite:///{tmp_path / 'registry' / 'registry.sqlite'}",
        "--artifacts",
        f"{tmp_path / 'artifacts'}",
    )


def gc(run: Run, where: tuple[str, ...], *options: str) -> dict[str, Any]:
    done = run("db", "gc", *where, "--grace", "0", "--json", *options)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def stored(folder: ArtifactFolder) -> set[str]:
    return {it.digest for it in folder.list()}


def test_files_of_another_registry_stay(
    run: Run, where: tuple[str, ...], registry: SqlRegistry, folder: ArtifactFolder
) -> None:
    own, foreign = folder.put(b"own"), folder.put(b"foreign")
    registry.register_artifacts({own: 3})
    first = gc(run, where, "--dry-run")
    assert (first["unknown"], first["condemned"]) == (1, [own])
    assert gc(run, where)["condemned"] == [own]
    assert gc(run, where)["deleted"] == [own]
    assert gc(run, where)["condemned"] == []
    assert stored(folder) == {foreign}


def test_adopted_files_go_like_the_others(run: Run, where: tuple[str, ...], folder: ArtifactFolder) -> None:
    lost = folder.put(b"lost")
    assert gc(run, where, "--adopt")["condemned"] == [lost]
    assert gc(run, where)["deleted"] == [lost]
    assert stored(folder) == set()


@pytest.mark.parametrize(("options", "says"), [((), "left alone"), (("--adopt",), "new to the register")])
def test_it_says_what_it_did_not_know(
    run: Run, where: tuple[str, ...], folder: ArtifactFolder, options: tuple[str, ...], says: str
) -> None:
    folder.put(b"lost")
    done = run("db", "gc", *where, *options)
    assert done.exit_code == 0, done.output
    assert says in done.stdout
