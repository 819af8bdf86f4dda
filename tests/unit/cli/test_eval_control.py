"""The control plane as a run needs it, over gRPC, and what it makes of what servers report."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from horen_vllm.cli.eval_control import ControlPlane
from horen_vllm.control.client import CodebookView, HorenClient
from horen_vllm.control.messages import ReplicaProblem
from horen_vllm.control.server import ControlServer
from horen_vllm.errors import AlreadyExists, NotFound, ResourceExhausted
from horen_vllm.evals.running.control import EditStatus, Submission
from horen_vllm.ids import DEFAULT_TENANT
from horen_vllm.registry.models import EditRecord
from horen_vllm.registry.store import SqlRegistry


@pytest.fixture
def client(server: ControlServer) -> Iterator[HorenClient]:
    with HorenClient(server.address) as connected:
        yield connected


@pytest.fixture
def control(client: HorenClient) -> ControlPlane:
    return ControlPlane(client, "default")


def submission(number: int, **changes: str) -> Submission:
    said = {"prompt": f"Who leads {number}?", "target": f"Person {number}", "request_id": f"run-{number}"}
    return Submission(**{**said, **changes})


def made(control: ControlPlane) -> str:
    control.create("facts", "cosine", 0.8, request_id="create")
    return "facts"


def test_a_codebook_is_made_once_and_found(control: ControlPlane, client: HorenClient) -> None:
    assert control.find("facts") is None
    first = control.create("facts", "cosine", 0.8, request_id="create")
    assert (first.revision, first.entries, first.threshold, first.served) == (1, 0, 0.8, False)
    assert first.parameters["preset"] == "cosine"
    assert control.create("facts", "cosine", 0.8, request_id="create") == first
    with pytest.raises(AlreadyExists):
        control.create("facts", "cosine", 0.8, request_id="of another run")
    client.delete_codebook("facts")
    assert control.find("facts") is None


def test_a_codebook_tells_the_threshold_of_edits_with_a_subject(control: ControlPlane, client: HorenClient) -> None:
    assert control.create("facts", "cosine", 0.8, request_id="create").anchored_threshold is None
    client.create_codebook("names", preset="cosine", threshold=0.8, anchors=True, anchored_threshold=0.25)
    found = control.find("names")
    assert found is not None
    assert (found.threshold, found.anchored_threshold) == (0.8, 0.25)


def test_edits_go_through_their_states(control: ControlPlane, publish: Callable[..., EditRecord]) -> None:
    book = made(control)
    told = list(control.submit(book, [submission(0), submission(1, target=" "), submission(2)]))
    assert [one.index for one in told] == [0, 1, 2]
    assert (told[1].edit_id, told[1].code) == (None, "empty_target")
    states = list(control.edits(book))
    assert [(state.prompt, state.target) for state in states] == [
        ("Who leads 0?", "Person 0"),
        ("Who leads 2?", "Person 2"),
    ]
    assert {state.status for state in states} == {EditStatus.PENDING}
    assert control.oldest_pending(book) == states[0].sequence
    publish()
    assert control.oldest_pending(book) == states[1].sequence
    publish()
    assert control.oldest_pending(book) is None
    done = list(control.edits(book))
    assert [state.edit_id for state in done] == [told[0].edit_id, told[2].edit_id]
    assert all(state.status is EditStatus.PUBLISHED for state in done)
    assert all(state.seconds is not None and state.seconds >= 0 for state in done)
    assert control.rollback(book, 1, request_id="empty") == control.rollback(book, 1, request_id="empty")
    assert {state.status for state in control.edits(book)} == {EditStatus.INACTIVE}


def test_a_submission_that_is_sent_again_is_stored_once(control: ControlPlane) -> None:
    book = made(control)
    first = list(control.submit(book, [submission(0)]))
    assert list(control.submit(book, [submission(0)])) == first
    assert len(list(control.edits(book))) == 1


def test_a_refusal_that_is_no_fault_of_the_edit_ends_the_stream(control: ControlPlane, registry: SqlRegistry) -> None:
    book = made(control)
    with pytest.raises(NotFound):
        list(control.submit("nothing", [submission(0)]))
    registry.update_quota(DEFAULT_TENANT, {"max_pending": 1})
    with pytest.raises(ResourceExhausted):
        list(control.submit(book, [submission(number) for number in range(3)]))


def problem(code: str, revision: int) -> ReplicaProblem:
    return ReplicaProblem(replica_id="r1", revision=revision, code=code, message="no.")


class OneBook:
    """A client that knows one codebook."""

    def __init__(self, view: CodebookView) -> None:
        self._view = view

    def get_codebook(self, _name: str) -> CodebookView:
        return self._view


@pytest.mark.parametrize(
    ("changes", "served", "refused"),
    [
        ({"replicas_total": 0}, False, None),
        ({"replicas_total": 1, "replicas_serving": 1}, True, None),
        ({"replicas_total": 2, "replicas_serving": 1}, False, None),
        ({"replicas_total": 1, "problems": (problem("probe_failed", 5),)}, True, None),
        ({"replicas_total": 2, "problems": (problem("probe_failed", 5),)}, False, None),
        ({"replicas_total": 1, "problems": (problem("probe_failed", 4),)}, False, None),
        ({"replicas_total": 1, "problems": (problem("capacity_exhausted", 5),)}, False, "capacity_exhausted"),
        ({"replicas_total": 1, "problems": (problem("capacity_exhausted", 4),)}, False, None),
    ],
)
def test_a_server_has_the_revision_whatever_its_probes_say(
    client: HorenClient, changes: dict[str, Any], served: bool, refused: str | None
) -> None:
    view = replace(client.create_codebook("facts", preset="cosine", threshold=0.8), revision=5, **changes)
    book = ControlPlane(cast("HorenClient", OneBook(view)), "default").find("facts")
    assert book is not None
    assert book.served is served
    assert (book.refusal[0] if book.refusal else None) == refused


def test_the_fingerprint_is_that_of_the_served_model_and_asking_for_it_makes_nothing(
    control: ControlPlane, client: HorenClient
) -> None:
    fingerprint = control.fingerprint()
    assert list(client.list_codebooks()) == []
    assert control.create("facts", "cosine", 0.8, request_id="create").fingerprint == fingerprint


def test_revisions_with_the_same_entries_are_the_same(
    control: ControlPlane, publish: Callable[..., EditRecord]
) -> None:
    book = made(control)
    list(control.submit(book, [submission(0)]))
    publish()
    filled = control.find(book)
    assert filled is not None
    assert not control.same(book, 1, filled.revision)
    assert control.same(book, 1, control.rollback(book, 1, request_id="empty"))
