"""``horen codebook save``: what the control plane serves, as files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from horen_vllm.artifact import EntryArtifact, EntryManifest, encode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.cli.layout import HomeLayout
from horen_vllm.core.presets import ValueMode
from horen_vllm.registry.models import Publication
from horen_vllm.registry.ports import Registry
from horen_vllm.static import list_static, read_static

from .conftest import FINGERPRINT, Run


@pytest.fixture
def home(tmp_path: Path) -> HomeLayout:
    return HomeLayout(tmp_path / "home")


def publish(registry: Registry, artifacts: Path) -> str:
    """Publish the oldest edit with a real entry."""
    (claim,) = registry.claim("worker", lease_s=30.0, fingerprint=FINGERPRINT)
    edit = claim.edit
    manifest = EntryManifest(
        edit_id=edit.edit_id,
        fingerprint=FINGERPRINT,
        site="s",
        value_mode=ValueMode.LAST,
        span=1,
        chunk=1,
        target_ids=(1,),
        normalised_prompt=edit.spec.prompt,
        trained_end=False,
        loss=0.0,
        steps=1,
    )
    entry = EntryArtifact(keys=torch.eye(1, 4), values=torch.ones(1, 4), manifest=manifest)
    digest = ArtifactFolder(artifacts).put(encode_entry(entry))
    base = registry.get_codebook(edit.codebook).revision
    registry.publish([(claim, Publication(artifact=digest, base_revision=base))])
    return str(edit.edit_id)


def submit(horen: Callable[..., Any], codebook: str, prompt: str) -> None:
    horen("edit", "submit", codebook, "--prompt", prompt, "--target", "Ada", "--wait", "committed")


def test_the_current_revision_is_written_and_can_be_read(
    horen: Callable[..., Any], registry: Registry, home: HomeLayout, tmp_path: Path, run: Run
) -> None:
    for codebook in ("demo", "other"):
        horen("codebook", "create", codebook, "--preset", "cosine", "--threshold", "0.85")
    submit(horen, "demo", "Who?")
    edit = publish(registry, home.artifacts)
    target = tmp_path / "static"
    saved = horen("codebook", "save", "demo", "--to", target, "--artifacts", home.artifacts)
    assert saved == {
        "codebook": "tenants/default/codebooks/demo",
        "revision": 2,
        "entries": 1,
        "path": str(target / "default" / "demo" / "codebook.json"),
    }
    (read,) = read_static(target)
    assert [entry.manifest.edit_id for _, _, entry in read.entries] == [edit]
    assert read.parameters.threshold == 0.85
    horen("codebook", "rollback", "demo", "1")
    assert "0 entries" in run("codebook", "save", "demo", "--to", target, "--artifacts", home.artifacts).stdout
    (again,) = list_static(target)
    assert (again.revision, again.entries) == (3, ())


def test_lost_artifacts_and_unknown_codebooks_are_refused(
    horen: Callable[..., Any], registry: Registry, home: HomeLayout, tmp_path: Path, run: Run
) -> None:
    unknown = run("codebook", "save", "none", "--to", tmp_path / "static")
    assert (unknown.exit_code, unknown.stderr.split("]")[0]) == (4, "error [unknown_codebook")
    horen("codebook", "create", "demo", "--preset", "cosine", "--threshold", "0.85")
    submit(horen, "demo", "Who?")
    publish(registry, home.artifacts)
    lost = run("codebook", "save", "demo", "--to", tmp_path / "static", "--artifacts", tmp_path / "nowhere")
    assert (lost.exit_code, lost.stderr.split("]")[0]) == (4, "error [unknown_artifact")
    assert not (tmp_path / "static" / "default" / "demo" / "codebook.json").exists()
