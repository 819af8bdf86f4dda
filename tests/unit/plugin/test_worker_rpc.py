"""Calls to a worker: answers are JSON, and what is refused leaves the worker standing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from horen_vllm.artifact import ArtifactFolder, EntryArtifact, encode_entry
from horen_vllm.plugin import rpc
from horen_vllm.plugin.attach import SITE_ATTRIBUTE
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import make_codebooks, make_entry, parameters

NAME = "tenants/default/codebooks/a"


class Worker:
    """Stands in for vLLM's worker class."""

    horen_apply: Any
    horen_drop: Any
    horen_status: Any

    def __init__(self, site: EditSite | None) -> None:
        if site is not None:
            setattr(self, SITE_ATTRIBUTE, site)


rpc.install(Worker)


@pytest.fixture
def site() -> EditSite:
    return EditSite(make_codebooks(num_keys=8), num_slots=2, max_tokens=8, positions=torch.arange(8))


def update(folder: Path, *entries: EntryArtifact, base: int = 0, revision: int = 1) -> dict[str, Any]:
    artifacts, added = ArtifactFolder(folder), []
    for sequence, entry in enumerate(entries, start=1):
        digest = artifacts.put(encode_entry(entry))
        row = {"edit_id": entry.manifest.edit_id, "sequence": sequence, "artifact": digest}
        added.append({**row, "path": str(artifacts.path(digest))})
    fields = {"codebook": NAME, "base_revision": base, "revision": revision, "removed": [], "fingerprint": "f"}
    return {**fields, "parameters": parameters().to_dict(), "added": added}


def ask(call: Any, body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(call(json.dumps(body)))
    return answer


def test_a_codebook_is_applied_reported_and_dropped(site: EditSite, tmp_path: Path) -> None:
    worker, entry = Worker(site), make_entry("e1", num_keys=2)
    assert ask(worker.horen_apply, update(tmp_path, entry, revision=4)) == {"codebook": NAME, "revision": 4}
    view = site.codebooks.current(NAME)
    assert view is not None
    assert torch.equal(site.codebooks.table(view).keys, entry.keys)
    site.begin_step([BatchRow("r", RequestTag(NAME, 0.5), 0, 1, 0, 4)])
    assert json.loads(worker.horen_status()) == {"applied": {NAME: 4}, "live_requests": 1}
    assert ask(worker.horen_drop, {"codebook": NAME}) == {"codebook": NAME}
    assert json.loads(worker.horen_status())["applied"] == {}


def corrupt(body: dict[str, Any]) -> None:
    path = Path(body["added"][0]["path"])
    path.write_bytes(path.read_bytes() + b"x")


REFUSED: dict[str, Callable[[dict[str, Any]], object]] = {
    "revision_gap": lambda body: body.update(base_revision=7),
    "artifact_corrupt": corrupt,
    "unknown_artifact": lambda body: Path(body["added"][0]["path"]).unlink(),
    "invalid_parameter": lambda body: body["parameters"].update(surprise=1),
    "fingerprint_mismatch": lambda body: body.update(fingerprint="g"),
    "artifact_of_another_edit": lambda body: body["added"][0].update(edit_id="other"),
    "capacity_exhausted": lambda body: body["added"].extend(body["added"] * 9),
}


@pytest.mark.parametrize("code", REFUSED)
def test_a_refused_update_answers_its_code_and_changes_nothing(site: EditSite, tmp_path: Path, code: str) -> None:
    worker = Worker(site)
    ask(worker.horen_apply, update(tmp_path, make_entry("old"), revision=3))
    body = update(tmp_path, make_entry("new", seed=1), revision=4)
    REFUSED[code](body)
    answer = ask(worker.horen_apply, body)
    assert answer["error"]["code"] == code
    assert answer["error"]["message"]
    assert json.loads(worker.horen_status())["applied"] == {NAME: 3}


@pytest.mark.parametrize("text", ["no json", "{}", "[]", '{"added": 3}'])
def test_a_malformed_update_is_an_answer_not_an_exception(site: EditSite, text: str) -> None:
    answer = json.loads(Worker(site).horen_apply(text))
    assert answer["error"]["code"] == "internal"


def test_a_folder_in_place_of_a_file_is_an_answer_not_an_exception(site: EditSite, tmp_path: Path) -> None:
    body = update(tmp_path, make_entry("e"))
    body["added"][0]["path"] = str(tmp_path)
    answer = ask(Worker(site).horen_apply, body)
    assert answer["error"]["code"] == "internal"
    assert str(tmp_path) not in answer["error"]["message"]


@pytest.mark.parametrize("method", ["horen_apply", "horen_drop", "horen_status"])
def test_a_worker_without_a_site_says_so(method: str) -> None:
    assert json.loads(getattr(Worker(None), method)())["error"]["code"] == "no_edit_site"
