"""``horen codebook delete | undelete | diff | watch | rollback | export | import`` and ``horen audit``."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from horen_vllm.artifact import EntryArtifact, EntryManifest, encode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.core.presets import ValueMode
from horen_vllm.registry.models import EditRecord, Publication
from horen_vllm.registry.store import SqlRegistry

from .conftest import FINGERPRINT, Run

CREATE = ("codebook", "create", "demo", "--preset", "cosine", "--threshold", "0.85")
SITE = "model.layers.1.mlp.down_proj"
Horen = Callable[..., Any]


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFolder:
    return ArtifactFolder(tmp_path / "artifacts")


@pytest.fixture
def server(registry: SqlRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlServer]:
    settings = ControlSettings(
        model="demo-model",
        fingerprint=FINGERPRINT,
        site=SITE,
        port=0,
        poll_s=0.02,
        grace_s=0.5,
        artifacts=str(tmp_path / "artifacts"),
    )
    with capture_logs(), serve(registry, settings) as running:
        monkeypatch.setenv("HOREN_CONTROL", running.address)
        yield running


@pytest.fixture
def publish_entry(registry: SqlRegistry, artifacts: ArtifactFolder, horen: Horen) -> Callable[[str], EditRecord]:
    """Submit an edit and publish an entry that is really there."""

    def publish(prompt: str) -> EditRecord:
        horen("edit", "submit", "demo", "--prompt", prompt, "--target", "t", "--wait", "committed")
        (claim,) = registry.claim("worker", lease_s=30.0, fingerprint=FINGERPRINT)
        manifest = EntryManifest(
            edit_id=claim.edit.edit_id,
            fingerprint=FINGERPRINT,
            site=SITE,
            value_mode=ValueMode.LAST,
            span=1,
            chunk=1,
            target_ids=(1,),
            normalised_prompt=prompt,
            trained_end=False,
            loss=0.0,
            steps=0,
        )
        data = encode_entry(EntryArtifact(keys=torch.ones(1, 4), values=torch.ones(1, 4), manifest=manifest))
        base = registry.get_codebook(claim.edit.codebook).revision
        (made,) = registry.publish([(claim, Publication(artifact=artifacts.put(data), base_revision=base))])
        return made

    return publish


def test_delete_and_undelete(horen: Horen, run: Run) -> None:
    made = horen(*CREATE)
    assert horen("codebook", "delete", "demo", "--validate-only")["deleted_at"] is not None
    assert horen("codebook", "list") == [made]
    deleted = horen("codebook", "delete", "demo", "--etag", made["etag"], "--request-id", "r1")
    assert horen("codebook", "delete", "demo", "--etag", made["etag"], "--request-id", "r1") == deleted
    assert horen("codebook", "list") == []
    assert horen("codebook", "list", "--deleted") == [deleted] == [horen("codebook", "show", "demo")]
    assert "DELETED" in run("codebook", "list", "--deleted").stdout
    assert horen("codebook", "undelete", "demo") == made
    again = run("codebook", "undelete", "demo")
    assert (again.exit_code, "[codebook_not_deleted]" in again.output) == (5, True)
    assert "its name stays taken" in run("codebook", "delete", "demo").stdout


def test_a_stale_etag_has_an_exit_code_of_its_own(horen: Horen, run: Run) -> None:
    seen = horen(*CREATE)["etag"]
    horen("codebook", "rollback", "demo", "1")
    result = run("codebook", "rollback", "demo", "1", "--etag", seen)
    assert (result.exit_code, "[etag_mismatch]" in result.output) == (11, True)
    current = horen("codebook", "show", "demo")
    assert horen("codebook", "rollback", "demo", "1", "--etag", current["etag"], "--validate-only")["number"] == 0
    made = horen("codebook", "rollback", "demo", "1", "--etag", current["etag"], "--request-id", "r1")
    assert horen("codebook", "rollback", "demo", "1", "--etag", current["etag"], "--request-id", "r1") == made


def test_diff(horen: Horen, run: Run, publish_entry: Callable[[str], EditRecord]) -> None:
    horen(*CREATE)
    first, second = publish_entry("Who is one?"), publish_entry("Who is two?")
    horen("codebook", "rollback", "demo", "2")
    found = horen("codebook", "diff", "demo", "3")
    assert (found["from_revision"], found["to_revision"], found["from_threshold"]) == (3, 4, 0.85)
    assert [(it["kind"], it["edit_id"]) for it in found["changes"]] == [("removed", second.edit_id)]
    everything = horen("codebook", "diff", "demo", "0", "3")
    assert [(it["kind"], it["prompt"]) for it in everything["changes"]] == [
        ("added", "Who is one?"), ("added", "Who is two?"),
    ]  # fmt: skip
    assert everything["from_threshold"] is None
    shown = run("codebook", "diff", "demo", "3", "2").stdout.splitlines()
    assert [line.split()[:2] for line in shown[1:]] == [["-", second.edit_id]]
    refused = run("codebook", "diff", "demo", "-1")
    assert (refused.exit_code, "[invalid_revision]" in refused.output) == (3, True)
    assert first.edit_id not in run("codebook", "diff", "demo", "2").stdout


def test_watch(horen: Horen, run: Run) -> None:
    horen(*CREATE)
    horen("codebook", "rollback", "demo", "1")
    lines = run("codebook", "watch", "demo", "--timeout", "0.5").stdout.splitlines()
    assert lines == ["revision 1: create, 0 entries.", "revision 2: rollback, 0 entries."]
    result = run("codebook", "watch", "demo", "--after", "1", "--timeout", "0.5", "--json")
    assert [json.loads(line)["number"] for line in result.stdout.splitlines()] == [2]


def test_export_and_import(horen: Horen, run: Run, publish_entry: Callable[[str], EditRecord], tmp_path: Path) -> None:
    horen(*CREATE)
    publish_entry("Who is one?")
    file = tmp_path / "demo.zip"
    exported = horen("codebook", "export", "demo", file)
    assert exported == {"file": str(file), "bytes": file.stat().st_size}
    kept = run("codebook", "export", "demo", file)
    assert (kept.exit_code, "[file_exists]" in kept.output) == (6, True)
    assert horen("codebook", "export", "demo", file, "--overwrite", "--revision", "2")["file"] == str(file)
    horen("codebook", "create", "copy", *CREATE[3:])
    dry = horen("codebook", "import", "copy", file, "--validate-only")
    assert (dry["added"], horen("codebook", "show", "copy")["revision"]) == (1, 1)
    made = horen("codebook", "import", "copy", file, "--request-id", "r1")
    assert (made["added"], made["codebook"]["entry_count"]) == (1, 1)
    assert horen("codebook", "import", "copy", file, "--request-id", "r1") == made
    said = run("codebook", "import", "copy", file).stdout
    assert said == "0 entries came in, 1 were there, 0 stay retired, 0 retired; revision 3.\n"


def test_files_that_cannot_be_used_are_said_so(horen: Horen, run: Run, tmp_path: Path) -> None:
    horen(*CREATE)
    for arguments in (("import", "demo", tmp_path / "none.zip"), ("export", "demo", tmp_path / "none" / "demo.zip")):
        result = run("codebook", *arguments)
        assert (result.exit_code, "[file_unusable]" in result.output) == (3, True)
    (tmp_path / "text.zip").write_text("no archive")
    result = run("codebook", "import", "demo", tmp_path / "text.zip")
    assert (result.exit_code, "[invalid_export]" in result.output) == (3, True)


def test_the_audit_log(horen: Horen, run: Run) -> None:
    horen(*CREATE)
    horen("tenant", "create", "acme")
    events = horen("audit", "list")
    assert [(it["method"], it["tenant"], it["actor"]) for it in events] == [
        ("CreateCodebook", "default", "local"), ("CreateTenant", "acme", "local"),
    ]  # fmt: skip
    assert horen("audit", "list", "--tenant", "acme") == events[1:]
    assert "CreateTenant" in run("audit", "list").stdout


def test_a_dry_run_makes_no_codebook(horen: Horen) -> None:
    made = horen(*CREATE, "--validate-only")
    assert (made["name"], made["revision"]) == ("tenants/default/codebooks/demo", 1)
    assert horen("codebook", "list", "--deleted") == []
    first = horen(*CREATE, "--request-id", "r1")
    assert horen(*CREATE, "--request-id", "r1") == first
