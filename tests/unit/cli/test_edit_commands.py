"""``horen edit`` against a real control plane."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId
from horen_vllm.registry.models import EditRecord, Publication, ReplicaReport
from horen_vllm.registry.preview_records import Collision, PreviewAnswer, PreviewVerdict
from horen_vllm.registry.store import SqlRegistry

from .conftest import FINGERPRINT, Run

SUBMIT = ("edit", "submit", "demo", "--prompt", "Who leads Acme?", "--target", "Ada")


@pytest.fixture(autouse=True)
def demo(server: ControlServer) -> None:
    with HorenClient(server.address) as client:
        client.create_codebook("demo", preset="cosine", threshold=0.85)


@pytest.fixture
def replica(server: ControlServer) -> None:
    """Say that one server has applied everything up to revision 9."""
    with HorenClient(server.address) as client:
        applied = {CodebookName(DEFAULT_TENANT, "demo"): 9}
        report = ReplicaReport(applied=applied, probed=applied)
        client.heartbeat("replica-1", model="demo-model", fingerprint=FINGERPRINT, epoch=client.epoch(), report=report)


def test_submit_carries_the_whole_edit(horen: Callable[..., Any]) -> None:
    lists = ("--alias", "A", "--alias", "B", "--paraphrase", "Acme's head?", "--must-not-fire", "Who is Bob?")
    edit = horen(*SUBMIT, "--subject", "Acme", *lists, "--wait", "committed")
    assert edit["state"] == "committed"
    assert edit["spec"] == {
        "prompt": "Who leads Acme?",
        "target": "Ada",
        "subject": "Acme",
        "aliases": ["A", "B"],
        "paraphrases": ["Acme's head?"],
        "must_not_fire": ["Who is Bob?"],
    }
    assert horen("edit", "show", edit["edit_id"])["spec"] == edit["spec"]


def test_submit_waits_until_it_is_served(
    horen: Callable[..., Any], replica: None, publish: Callable[[], EditRecord]
) -> None:
    timer = threading.Timer(0.3, publish)
    timer.start()
    edit = horen(*SUBMIT, "--timeout", "10")
    timer.join()
    assert (edit["state"], edit["published_revision"], edit["replicas_serving"]) == ("serving", 2, 1)


def test_submit_gives_up_after_its_timeout(run: Run) -> None:
    result = run(*SUBMIT, "--wait", "published", "--timeout", "0.3")
    assert result.exit_code == 7
    assert "error [wait_timeout]" in result.stderr
    assert "committed" in result.stderr


def test_a_failed_edit_is_printed_and_is_an_error(run: Run, registry: SqlRegistry) -> None:
    def fail() -> None:
        (claim,) = registry.claim("worker", lease_s=30.0, fingerprint=FINGERPRINT)
        registry.fail(claim, "not_learned", "the loss stayed at 3.1.")

    timer = threading.Timer(0.3, fail)
    timer.start()
    result = run(*SUBMIT, "--timeout", "10", "--json")
    timer.join()
    assert result.exit_code == 6
    assert json.loads(result.stdout)["state"] == "failed"
    assert "error [not_learned]" in result.stderr
    assert "the loss stayed at 3.1." in result.stderr


def test_a_note_on_a_published_edit_is_shown_and_is_no_error(
    run: Run, horen: Callable[..., Any], registry: SqlRegistry
) -> None:
    edit_id = horen(*SUBMIT, "--wait", "committed")["edit_id"]
    (claim,) = registry.claim("worker", lease_s=30.0, fingerprint=FINGERPRINT)
    note = "the model answers so by itself."
    publication = Publication(artifact="ab" * 32, base_revision=1, reason_code="already_answered", reason=note)
    registry.publish([(claim, publication)])
    assert horen("edit", "show", edit_id)["reason_code"] == "already_answered"
    lines = [line.split(maxsplit=1) for line in run("edit", "show", edit_id).stdout.splitlines()]
    assert ["note", note] in [[word.strip() for word in line] for line in lines]
    watched = run("edit", "watch", edit_id, "--until", "published")
    assert (watched.exit_code, note in watched.stdout) == (0, True)
    # No server has it: that is why the wait ends, and not what the note says.
    waiting = run("edit", "watch", edit_id, "--timeout", "0.3")
    assert waiting.exit_code == 7
    assert note not in waiting.stderr


def test_the_same_request_id_stores_one_edit(horen: Callable[..., Any]) -> None:
    first, second = (horen(*SUBMIT, "--request-id", "r1", "--wait", "committed") for _ in range(2))
    assert first["edit_id"] == second["edit_id"]


def test_list_filters_by_state(horen: Callable[..., Any], publish: Callable[[], EditRecord], run: Run) -> None:
    horen(*SUBMIT, "--wait", "committed")
    publish()
    waiting = horen("edit", "submit", "demo", "--prompt", "Other?", "--target", "B", "--wait", "committed")
    assert [edit["edit_id"] for edit in horen("edit", "list", "demo", "--state", "committed")] == [waiting["edit_id"]]
    assert len(horen("edit", "list", "demo")) == 2
    assert "Who leads Acme?" in run("edit", "list", "demo").stdout


def test_watch_prints_each_state(
    horen: Callable[..., Any], run: Run, publish: Callable[[], EditRecord], replica: None
) -> None:
    edit = horen(*SUBMIT, "--wait", "committed")
    timer = threading.Timer(0.3, publish)
    timer.start()
    result = run("edit", "watch", edit["edit_id"], "--timeout", "10", "--json")
    timer.join()
    states = [json.loads(line)["state"] for line in result.stdout.splitlines()]
    assert (result.exit_code, states[0], states[-1]) == (0, "committed", "serving")


def test_unknown_edits_and_codebooks_are_not_found(run: Run) -> None:
    assert run("edit", "show", "e0").exit_code == 4
    assert run("edit", "list", "nothing").exit_code == 4


@pytest.mark.parametrize("option", ["--prompt", "--target", "--alias"])
@pytest.mark.parametrize("character", ["\udcff", "\0"], ids=["undecodable byte", "NUL"])
def test_text_that_cannot_be_stored_is_refused(run: Run, option: str, character: str) -> None:
    # Later options win, so this replaces the prompt or target of SUBMIT.
    result = run(*SUBMIT, option, f"Who{character}?")
    assert (result.exit_code, result.stderr.split("]")[0]) == (3, "error [invalid_text")


def test_text_in_brackets_is_printed_as_it_is(horen: Callable[..., Any], run: Run) -> None:
    horen("edit", "submit", "demo", "--prompt", "[red]Who?[/]", "--target", "[b]", "--wait", "committed")
    assert "[red]Who?[/]" in run("edit", "list", "demo").stdout


def test_a_retired_edit_is_shown_as_such(
    horen: Callable[..., Any], publish: Callable[[], EditRecord], run: Run
) -> None:
    edit = horen(*SUBMIT, "--wait", "committed")
    publish()
    assert horen("edit", "retire", edit["edit_id"], "--validate-only")["state"] == "published"
    stale = run("edit", "retire", edit["edit_id"], "--etag", edit["etag"])
    assert (stale.exit_code, "error [etag_mismatch]" in stale.stderr) == (11, True)
    retired = horen("edit", "retire", edit["edit_id"])
    assert (retired["state"], retired["active"]) == ("inactive", False)
    assert [it["edit_id"] for it in horen("edit", "list", "demo", "--state", "inactive")] == [edit["edit_id"]]
    shown = run("edit", "show", edit["edit_id"]).stdout
    assert "retired" in shown
    assert "1: worker published" in shown
    assert run("edit", "retire", "e0").exit_code == 4


def test_failed_edits_are_listed_with_their_reasons(horen: Callable[..., Any], registry: SqlRegistry, run: Run) -> None:
    edit = horen(*SUBMIT, "--wait", "committed")
    (claim,) = registry.claim("worker", lease_s=30.0, fingerprint=FINGERPRINT)
    registry.fail(claim, "not_learned", "the loss stayed at 3.1.")
    assert [it["edit_id"] for it in horen("edit", "list", "demo", "--state", "failed")] == [edit["edit_id"]]
    assert "not_learned" in run("edit", "list", "demo", "--state", "failed").stdout
    (attempt,) = horen("edit", "show", edit["edit_id"])["attempts"]
    assert (attempt["worker"], attempt["outcome"]) == ("worker", "failed")


def test_an_edit_may_have_an_end_and_may_be_checked_only(horen: Callable[..., Any], run: Run) -> None:
    drafted = horen(*SUBMIT, "--validate-only", "--ttl", "60")
    assert (drafted["edit_id"], drafted["state"]) == ("", "committed")
    assert horen("edit", "list", "demo") == []
    assert horen(*SUBMIT, "--ttl", "60", "--wait", "committed")["expires_at"] is not None
    assert run(*SUBMIT, "--ttl", "0.1").exit_code == 3


def test_submit_waits_for_training(horen: Callable[..., Any], registry: SqlRegistry) -> None:
    def train() -> None:
        registry.trained(registry.claim("worker", lease_s=30.0, fingerprint=FINGERPRINT))

    timer = threading.Timer(0.3, train)
    timer.start()
    assert horen(*SUBMIT, "--wait", "trained", "--timeout", "10")["state"] == "trained"
    timer.join()


def test_a_preview_is_printed(horen: Callable[..., Any], registry: SqlRegistry, run: Run) -> None:
    other = horen(*SUBMIT, "--wait", "committed")
    touched = Collision(edit_id=EditId(other["edit_id"]), text="Acme's head?", score=0.87, threshold=0.85)

    def answer(answer: PreviewAnswer) -> threading.Thread:
        def work() -> None:
            deadline = time.monotonic() + 20
            while (task := registry.claim_preview("w1", fingerprint=FINGERPRINT, lease_s=30)) is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            registry.answer_preview("w1", task.preview_id, answer)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    arguments = ("edit", "preview", "demo", "--prompt", "Acme's head?", "--target", "Bob", "--timeout", "20")
    thread = answer(PreviewAnswer(verdict=PreviewVerdict.NEW, revision=1, collisions=(touched,)))
    view = horen(*arguments)
    thread.join(20)
    assert (view["verdict"], view["collisions"][0]["prompt"]) == ("new", "Who leads Acme?")
    thread = answer(
        PreviewAnswer(verdict=PreviewVerdict.REFUSED, revision=1, refusal_code="key_not_matched", refusal="No way.")
    )
    refused = run(*arguments)
    thread.join(20)
    assert (refused.exit_code, "No way." in refused.stdout) == (1, True)
    late = run(*arguments[:-1], "0.6")
    assert (late.exit_code, "error [preview_timeout]" in late.stderr) == (7, True)
