"""Calls to a worker: answers are JSON, and what is refused leaves the worker standing."""

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from horen_vllm.artifact import EntryArtifact
from horen_vllm.pack import encode_pack
from horen_vllm.plugin import rpc
from horen_vllm.plugin.engine_half import EngineHalf, keep
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.staging import Stager
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.codebook_model import Expected, check_view
from tests.unit.plugin.entries import D_IN, D_OUT, make_codebooks, make_entry, pack_of, parameters

NAME = "tenants/default/codebooks/a"
CALLS = ("stage", "staged", "flip", "unstage", "drop", "status")


class Worker:
    """Stands in for vLLM's worker class."""

    def __init__(self, half: EngineHalf | None = None) -> None:
        if half is not None:
            keep(self, half)


rpc.install(Worker)


class Asked:
    """A worker with an edit site, asked as ``collective_rpc`` asks it."""

    def __init__(self) -> None:
        self.site = EditSite(make_codebooks(num_keys=8), num_slots=2, positions=torch.arange(8))
        self.stager = Stager(self.site.codebooks)
        self.worker: Any = Worker(EngineHalf(self.site, self.stager))

    def __call__(self, call: str, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(getattr(self.worker, f"horen_{call}")(json.dumps(body)))
        return answer

    def staged(self, body: dict[str, Any]) -> dict[str, Any]:
        """Stage an update and return how far it comes."""
        assert self("stage", **body) == {"ticket": body["ticket"], "state": "staging"}
        done = threading.Event()
        self.stager._enqueue(done.set)
        assert done.wait(10)
        return self("staged", ticket=body["ticket"])

    def code(self, call: str, **body: Any) -> str:
        """Return the code with which a call is refused."""
        error = self(call, **body)["error"]
        assert error.keys() == {"class", "code", "message"}
        return str(error["code"])


@pytest.fixture
def ask() -> Asked:
    return Asked()


def update(
    folder: Path, *entries: EntryArtifact, ticket: str = "t", base: int = 0, revision: int = 1, removed: Any = ()
) -> dict[str, Any]:
    data = encode_pack(pack_of(list(enumerate(entries, start=1))))
    path = folder / f"{ticket}.pack"
    path.write_bytes(data)
    return {
        "ticket": ticket,
        "codebook": NAME,
        "base_revision": base,
        "revision": revision,
        "fingerprint": "f",
        "parameters": parameters().to_dict(),
        "pack": str(path),
        "sha256": hashlib.sha256(data).hexdigest(),
        "removed": list(removed),
    }


def test_a_codebook_is_staged_flipped_and_dropped(ask: Asked, tmp_path: Path) -> None:
    entry = make_entry("e1", num_keys=2)
    assert ask.staged(update(tmp_path, entry, revision=4)) == {"ticket": "t", "state": "staged"}
    assert ask("status")["applied"] == {}
    assert ask("flip", ticket="t", sequence=3) == {"codebook": NAME, "revision": 4}
    view = ask.site.codebooks.current(NAME)
    assert view is not None
    check_view(ask.site.codebooks, view, Expected(4, {"e1": (1, entry)}))
    assert ask("drop", codebook=NAME, sequence=4) == {"codebook": NAME}
    assert ask("status")["applied"] == {}


def test_status_tells_what_is_applied_and_what_it_takes(ask: Asked, tmp_path: Path) -> None:
    ask.staged(update(tmp_path, make_entry("e1", num_keys=2), make_entry("e2", seed=1), revision=4))
    ask("flip", ticket="t", sequence=3)
    ask.site.begin_step([BatchRow("r", RequestTag(NAME, 0.5), 0, 4, 0, 4)])
    ask.site.run(torch.ones(4, D_IN), torch.zeros(4, D_OUT))
    status = json.loads(ask.worker.horen_status())
    assert (status["applied"], status["entries"]) == ({NAME: 4}, {NAME: 2})
    assert (status["live_requests"], status["sequence"], status["op_calls"]) == (1, 3, 1)
    assert status["pages"]["keys"] == {"used": 3 * D_IN, "free": 5 * D_IN, "budget": 8 * D_IN, "bytes": 4}
    assert status["pages"]["values"]["used"] == 4
    assert status["routing"]["requests"] == 1
    assert status["routing"]["seconds"] > 0
    assert status["flip_seconds"] > 0
    assert {"compilations", "captures"} <= status.keys()


def corrupt(body: dict[str, Any]) -> None:
    path = Path(body["pack"])
    path.write_bytes(path.read_bytes() + b"x")


def announce_another_file(body: dict[str, Any]) -> None:
    Path(body["pack"]).write_bytes(b"no pack")
    body["sha256"] = hashlib.sha256(b"no pack").hexdigest()


REFUSED: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "another base": ("revision_gap", lambda body: body.update(base_revision=7)),
    "a changed file": ("pack_unreadable", corrupt),
    "no file": ("pack_unreadable", lambda body: Path(body["pack"]).unlink()),
    "another kind of file": ("pack_unreadable", announce_another_file),
    "unknown parameters": ("invalid_parameter", lambda body: body["parameters"].update(surprise=1)),
    "another base model": ("fingerprint_mismatch", lambda body: body.update(fingerprint="g")),
    "a missing field": ("internal", lambda body: body.pop("codebook")),
}


@pytest.mark.parametrize(("code", "change"), REFUSED.values(), ids=REFUSED.keys())
def test_an_update_that_fails_says_why_and_changes_nothing(
    ask: Asked, tmp_path: Path, code: str, change: Callable[[dict[str, Any]], object]
) -> None:
    ask.staged(update(tmp_path, make_entry("old"), ticket="old", revision=3))
    ask("flip", ticket="old", sequence=1)
    body = update(tmp_path, make_entry("new", seed=1), base=3, revision=4)
    change(body)
    answer = ask.staged(body)
    assert (answer["state"], answer["error"]["code"]) == ("failed", code)
    assert answer["error"]["message"]
    assert str(tmp_path) not in answer["error"]["message"]
    assert ask.code("flip", ticket="t", sequence=2) == "not_staged"
    assert ask("unstage", ticket="t") == {"ticket": "t"}
    assert ask.code("staged", ticket="t") == "unknown_ticket"
    status = ask("status")
    assert (status["applied"], status["pages"]["keys"]["used"]) == ({NAME: 3}, D_IN)


def test_an_update_without_room_fails_and_one_that_fits_follows(ask: Asked, tmp_path: Path) -> None:
    crowd = [make_entry(f"e{number}", seed=number) for number in range(9)]
    assert ask.staged(update(tmp_path, *crowd))["error"]["code"] == "capacity_exhausted"
    assert ask.staged(update(tmp_path, *crowd[:8], ticket="u"))["state"] == "staged"


def test_a_change_of_a_former_agent_is_refused(ask: Asked, tmp_path: Path) -> None:
    ask.staged(update(tmp_path, make_entry("e")))
    assert ask("flip", ticket="t", sequence=5)["revision"] == 1
    assert ask.code("drop", codebook=NAME, sequence=5) == "stale_update"
    ask.staged(update(tmp_path, ticket="u", base=1, revision=2, removed=["e"]))
    assert ask.code("flip", ticket="u", sequence=4) == "stale_update"
    assert ask("flip", ticket="u", sequence=6) == {"codebook": NAME, "revision": 2}
    assert ask("status")["entries"] == {NAME: 0}


@pytest.mark.parametrize("call", ["stage", "staged", "flip", "unstage", "drop"])
@pytest.mark.parametrize("text", ["no json", "{}", "[]", '{"ticket": 3}'])
def test_a_malformed_call_is_an_answer_not_an_exception(ask: Asked, call: str, text: str) -> None:
    answer = json.loads(getattr(ask.worker, f"horen_{call}")(text))
    assert "error" in answer or answer == {"ticket": 3}
    assert ask("status")["applied"] == {}


@pytest.mark.parametrize("call", CALLS)
def test_a_worker_without_a_site_says_so(call: str) -> None:
    answer = json.loads(getattr(Worker(), f"horen_{call}")())
    assert answer["error"]["code"] == "no_edit_site"
