"""EditService over real gRPC: dry runs, lifetimes, retirement, states, masks, cursors and attempts."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest

from horen_vllm.control._pb.horen.v1 import edits_pb2, edits_pb2_grpc
from horen_vllm.control.client import EditProgress, EditView, HorenClient
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.errors import Aborted, AlreadyExists, HorenError, InvalidArgument, NotFound, ResourceExhausted
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.registry.models import EditRecord, EditSpec, RevisionKind
from horen_vllm.registry.store import SqlRegistry

WAIT_S = 30.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_dry_run_stores_nothing(client: HorenClient, demo: CodebookName, spec: EditSpec) -> None:
    drafted = client.submit_edit("demo", spec, validate_only=True, ttl_s=60, request_id="r1")
    assert (drafted.edit_id, drafted.name, drafted.spec) == ("", "", spec)
    assert drafted.expires_at is not None
    assert list(client.list_edits(demo)) == []
    # It was asked for now; before, it was only asked about.
    assert client.submit_edit("demo", spec, ttl_s=60, request_id="r1").sequence == 1
    with pytest.raises(InvalidArgument):
        client.submit_edit(demo, replace(spec, target=""), validate_only=True)
    with pytest.raises(NotFound):
        client.submit_edit("nothing", spec, validate_only=True)


@pytest.mark.parametrize("ttl_s", [0.5, -1.0, 1e9, 1e300, float("nan")])
def test_a_lifetime_has_limits(client: HorenClient, demo: CodebookName, spec: EditSpec, ttl_s: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.submit_edit(demo, spec, ttl_s=ttl_s)
    assert caught.value.code == "invalid_ttl"


def test_all_that_is_wrong_is_told_at_once(client: HorenClient, demo: CodebookName) -> None:
    spec = EditSpec(prompt=" ", target="t" * 16_385, paraphrases=("a", ""), aliases=("a",) * 65)
    with pytest.raises(InvalidArgument) as caught:
        client.submit_edit(demo, spec)
    found = {(it.field.removeprefix("spec."), it.code) for it in caught.value.violations}
    assert found == {
        ("prompt", "empty_prompt"),
        ("target", "target_too_long"),
        ("paraphrases[1]", "empty_item"),
        ("aliases", "too_many_items"),
    }
    assert all(it.message for it in caught.value.violations)


def test_more_than_fits_is_cut(client: HorenClient, demo: CodebookName) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.submit_edit(demo, EditSpec(prompt="p", target="t", paraphrases=(" ",) * 64, must_not_fire=(" ",) * 64))
    assert caught.value.code == "empty_item"
    assert len(caught.value.violations) == 16


def test_an_expired_edit_is_retired_by_the_server(
    client: HorenClient, demo: CodebookName, spec: EditSpec, publish: Callable[[], EditRecord]
) -> None:
    edit = client.submit_edit(demo, spec, ttl_s=1)
    publish()
    until(lambda: client.get_edit(edit).state is EditProgress.INACTIVE)
    gone = client.get_edit(edit)
    assert gone.retired_at is not None
    assert gone.expires_at is not None
    assert gone.retired_at >= gone.expires_at
    assert client.get_codebook(demo).entry_count == 0
    event = next(it for it in client.list_audit_events() if it.method == "RetireEdit")
    assert (event.actor, event.resource) == ("ttl", edit.name)


def test_a_retired_edit_is_inactive_until_a_rollback(
    client: HorenClient, demo: CodebookName, submit: Callable[[str], EditView], publish: Callable[[], EditRecord]
) -> None:
    edit = submit("Who leads Acme?")
    publish()
    retired = client.retire_edit(edit.edit_id)
    assert (retired.state, retired.active) == (EditProgress.INACTIVE, False)
    assert retired == replace(client.get_edit(edit), attempts=())
    assert client.retire_edit(edit).retired_at == retired.retired_at
    assert [it.kind for it in client.list_revisions(demo)][-1] is RevisionKind.RETIRE
    client.rollback(demo, 2)
    back = client.get_edit(edit)
    assert (back.state, back.retired_at) == (EditProgress.PUBLISHED, None)


def test_an_unfinished_edit_that_is_retired_has_failed(client: HorenClient, submit: Callable[[str], EditView]) -> None:
    edit = submit("Who leads Acme?")
    assert client.retire_edit(edit, validate_only=True).state is EditProgress.COMMITTED
    assert client.get_edit(edit).state is EditProgress.COMMITTED
    retired = client.retire_edit(edit)
    assert (retired.state, retired.reason_code) == (EditProgress.FAILED, "retired")


def test_a_retirement_is_made_once_and_only_of_what_was_seen(
    client: HorenClient, demo: CodebookName, submit: Callable[[str], EditView], publish: Callable[[], EditRecord]
) -> None:
    seen, other = submit("Who leads Acme?"), submit("Who leads Bolt?")
    publish()
    with pytest.raises(Aborted) as caught:
        client.retire_edit(seen, etag=seen.etag)
    assert caught.value.code == "etag_mismatch"
    now = client.get_edit(seen)
    client.retire_edit(seen, etag=now.etag, request_id="r1")
    client.rollback(demo, 2)
    assert client.retire_edit(seen, etag=now.etag, request_id="r1").active
    with pytest.raises(AlreadyExists) as reused:
        client.retire_edit(other, request_id="r1")
    assert reused.value.code == "request_id_reused"


def test_replicas_that_begin_to_serve_are_no_reason_to_refuse(
    client: HorenClient, submit: Callable[[str], EditView], publish: Callable[[], EditRecord], beat: Callable[..., None]
) -> None:
    edit = submit("Who leads Acme?")
    publish()
    published = client.get_edit(edit)
    beat("replica-1", demo=2)
    serving = client.get_edit(edit)
    assert (published.state, serving.state) == (EditProgress.PUBLISHED, EditProgress.SERVING)
    assert published.etag != serving.etag
    assert client.retire_edit(edit, etag=published.etag).state is EditProgress.INACTIVE


@pytest.mark.parametrize("name", ["e0", "tenants/other/codebooks/demo/edits/e0"])
def test_an_unknown_edit_cannot_be_retired(client: HorenClient, demo: CodebookName, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        client.retire_edit(name)
    assert caught.value.code == "unknown_edit"


def test_an_edit_of_another_tenant_is_unknown(client: HorenClient, submit: Callable[[str], EditView]) -> None:
    edit = submit("Who leads Acme?")
    for name in (
        f"tenants/other/codebooks/-/edits/{edit.edit_id}",
        f"tenants/other/codebooks/demo/edits/{edit.edit_id}",
    ):
        with pytest.raises(NotFound):
            client.retire_edit(name)
    assert client.get_edit(edit).retired_at is None


def test_lists_are_of_the_states_asked_for_whatever_the_page(
    client: HorenClient, demo: CodebookName, submit: Callable[[str], EditView], publish: Callable[[], EditRecord]
) -> None:
    edits = [submit(f"Question {number}?").edit_id for number in range(8)]
    for _ in range(4):
        publish()
    for edit in (edits[0], edits[2]):
        client.retire_edit(edit)
    expected = {
        EditProgress.PUBLISHED: [edits[1], edits[3]],
        EditProgress.INACTIVE: [edits[0], edits[2]],
        EditProgress.COMMITTED: edits[4:],
        EditProgress.FAILED: [],
    }
    for size in (1, 2, 3, 100):
        for state, wanted in expected.items():
            assert [edit.edit_id for edit in client.list_edits(demo, states=[state], page_size=size)] == wanted
    both = client.list_edits(demo, states=[EditProgress.INACTIVE, EditProgress.COMMITTED], page_size=2)
    assert [edit.edit_id for edit in both] == [edits[0], edits[2], *edits[4:]]


def test_masks_leave_fields_out(server: ControlServer, demo: CodebookName, submit: Callable[[str], EditView]) -> None:
    edit = submit("Who leads Acme?")
    with grpc.insecure_channel(server.address) as channel:
        stub = edits_pb2_grpc.EditServiceStub(channel)  # type: ignore[no-untyped-call]
        request = edits_pb2.GetEditRequest(name=edit.name)
        request.read_mask.paths.extend(["edit_id", "spec.prompt"])
        message = stub.GetEdit(request)
        wanted = edits_pb2.Edit(edit_id=edit.edit_id, spec=edits_pb2.EditSpec(prompt="Who leads Acme?"))
        assert message == wanted
        listing = edits_pb2.ListEditsRequest(parent=str(demo))
        listing.read_mask.paths.extend(["edit_id", "spec.prompt"])
        assert list(stub.ListEdits(listing).edits) == [wanted]
        listing.read_mask.paths.append("nothing")
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListEdits(listing)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_get_tells_of_every_attempt(
    client: HorenClient, demo: CodebookName, registry: SqlRegistry, submit: Callable[[str], EditView]
) -> None:
    edit = submit("Who leads Acme?")
    assert client.get_edit(edit).attempts == ()
    (claim,) = registry.claim("w1", lease_s=30, fingerprint="f" * 64)
    registry.fail(claim, "not_learned", "The loss stayed high.")
    (attempt,) = client.get_edit(edit).attempts
    assert (attempt.number, attempt.worker, attempt.outcome) == (1, "w1", "failed")
    assert [it.attempts for it in client.list_edits(demo)] == [()]


def test_a_watch_goes_on_behind_its_cursor_and_through_restarts(
    server: ControlServer,
    client: HorenClient,
    registry: SqlRegistry,
    settings: ControlSettings,
    submit: Callable[[str], EditView],
) -> None:
    edit = submit("Who leads Acme?")
    seen: list[EditView] = []
    first, ended = threading.Event(), threading.Event()

    def watch() -> None:
        for view in client.watch_edit(edit, timeout_s=2 * WAIT_S):
            seen.append(view)
            first.set()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    assert first.wait(WAIT_S)
    server.stop()
    (claim,) = registry.claim("w1", lease_s=30, fingerprint="f" * 64)
    running = serve(registry, replace(settings, port=server.port))
    try:
        until(lambda: len(seen) == 2)
        registry.fail(claim, "not_learned", "The loss stayed high.")
        assert ended.wait(WAIT_S)
        assert list(client.watch_edit(edit, after_etag=seen[-1].etag, timeout_s=WAIT_S)) == []
    finally:
        running.stop()
    assert [view.state for view in seen] == [EditProgress.COMMITTED, EditProgress.TRAINING, EditProgress.FAILED]


def test_calls_at_once_are_stored_once_each(client: HorenClient, demo: CodebookName, spec: EditSpec) -> None:
    found: list[EditView | HorenError] = []

    def submit(number: int) -> None:
        for _ in range(5):
            try:
                found.append(client.submit_edit(demo, spec, request_id=f"r{number}"))
            except HorenError as error:
                found.append(error)

    threads = [threading.Thread(target=submit, args=(number % 8,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(found) == 80
    edits = {it.edit_id for it in found if isinstance(it, EditView)}
    assert len(edits) == 8
    assert {it.edit_id for it in client.list_edits(demo)} == edits


def test_a_quota_is_shown_changed_and_kept(client: HorenClient, demo: CodebookName, spec: EditSpec) -> None:
    view = client.get_quota(DEFAULT_TENANT)
    assert (view.quota.max_pending, view.usage.codebooks, view.usage.pending) == (None, 1, 0)
    client.update_quota(DEFAULT_TENANT, {"max_pending": 1, "edits_per_minute": 100})
    assert client.update_quota(DEFAULT_TENANT, {"edits_per_minute": None}).quota.edits_per_minute is None
    assert client.update_quota(DEFAULT_TENANT, {"max_entries": 5}, validate_only=True).quota.max_entries == 5
    client.submit_edit(demo, spec)
    view = client.get_quota(DEFAULT_TENANT)
    assert (view.quota.max_pending, view.quota.max_entries, view.usage.pending) == (1, None, 1)
    with pytest.raises(ResourceExhausted) as caught:
        client.submit_edit(demo, spec)
    assert (caught.value.code, caught.value.retry_after_s) == ("quota_exceeded", 5.0)
    assert caught.value.subject == "tenants/default"


def test_quotas_are_refused_for_a_reason(client: HorenClient) -> None:
    with pytest.raises(NotFound) as unknown:
        client.get_quota("nobody")
    assert unknown.value.code == "unknown_tenant"
    with pytest.raises(InvalidArgument) as caught:
        client.update_quota(DEFAULT_TENANT, {"codebooks": 1})
    assert caught.value.code == "invalid_field_mask"
    with pytest.raises(InvalidArgument) as negative:
        client.update_quota(DEFAULT_TENANT, {"max_pending": -1})
    assert negative.value.code == "invalid_quota"
