"""Codebooks over gRPC: deletion, differences, etags, request ids, dry runs and field masks."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from horen_vllm.control._pb.horen.v1 import codebooks_pb2, codebooks_pb2_grpc
from horen_vllm.control.client import EditProgress, EditView, HorenClient
from horen_vllm.control.server import ControlServer
from horen_vllm.control.status import error_from_rpc
from horen_vllm.errors import Aborted, AlreadyExists, InvalidArgument, NotFound
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.registry.differences import ChangeKind
from horen_vllm.registry.models import EditRecord
from horen_vllm.registry.store import SqlRegistry

from .conftest import FINGERPRINT

Publish = Callable[..., EditRecord]
Submit = Callable[[str], EditView]


@pytest.fixture
def stub(server: ControlServer) -> Any:
    with grpc.insecure_channel(server.address) as channel:
        yield codebooks_pb2_grpc.CodebookServiceStub(channel)  # type: ignore[no-untyped-call]


def test_an_unknown_value_mode_is_refused(stub: Any) -> None:
    request = codebooks_pb2.CreateCodebookRequest(codebook_id="facts", preset="cosine", threshold=0.8)
    request.value_mode = 99  # type: ignore[assignment]
    request.parent = "tenants/default"
    assert code_of(lambda: stub.CreateCodebook(request)) == "invalid_parameter"


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return error_from_rpc(caught.value, "here").code


def test_a_deleted_codebook_vanishes_from_replicas_and_comes_back(
    client: HorenClient, demo: CodebookName, submit: Submit, publish: Publish, beat: Callable[..., None]
) -> None:
    edit = submit("Who leads Acme?")
    publish()
    beat(demo=2)
    known: dict[str, Any] = {"known": {demo: 2}, "epoch": client.epoch()}
    assert not client.sync("replica-1", model="m", fingerprint=FINGERPRINT, **known)
    deleted = client.delete_codebook(demo)
    assert deleted.deleted_at is not None
    assert client.get_codebook(demo) == deleted
    gone = client.sync("replica-1", model="m", fingerprint=FINGERPRINT, **known)
    assert (gone.removed_codebooks, gone.deltas) == ((demo,), ())
    assert client.undelete_codebook(demo).deleted_at is None
    back = client.sync("replica-1", model="m", fingerprint=FINGERPRINT, known={})
    (delta,) = back.deltas
    assert (delta.base, delta.revision, [it.edit_id for it in delta.added]) == (0, 2, [edit.edit_id])
    assert client.get_edit(edit).state is EditProgress.SERVING


def test_deleted_codebooks_are_listed_on_demand(client: HorenClient, demo: CodebookName) -> None:
    client.delete_codebook(demo)
    assert list(client.list_codebooks()) == []
    assert [view.name for view in client.list_codebooks(show_deleted=True)] == [demo]
    with pytest.raises(AlreadyExists) as caught:
        client.create_codebook(demo, preset="cosine", threshold=0.5)
    assert caught.value.code == "codebook_exists"


def test_a_difference_comes_in_pages_of_one_revision(
    client: HorenClient, demo: CodebookName, submit: Submit, publish: Publish, stub: Any
) -> None:
    edits = [submit(f"Question {number}?") for number in range(5)]
    for _ in edits[:4]:
        publish()
    request = codebooks_pb2.DiffRevisionsRequest(name=str(demo), from_revision=1, page_size=3)
    first = stub.DiffRevisions(request)
    # The codebook moves on; the pages are of one pair of revisions.
    publish()
    second = stub.DiffRevisions(
        codebooks_pb2.DiffRevisionsRequest(
            name=str(demo), from_revision=1, page_size=3, page_token=first.next_page_token
        )
    )
    found = [change.edit_id for page in (first, second) for change in page.changes]
    assert found == [edit.edit_id for edit in edits[:4]]
    assert (first.to_revision, second.to_revision, second.next_page_token) == (5, 5, "")
    diff = client.diff_revisions(demo, 5, 2, page_size=1)
    assert [(it.kind, it.edit_id, it.prompt) for it in diff.changes] == [
        (ChangeKind.REMOVED, edit.edit_id, edit.spec.prompt) for edit in edits[1:4]
    ]
    everything = client.diff_revisions(demo, 0)
    assert (len(everything.changes), everything.from_threshold, everything.to_threshold) == (5, None, 0.85)


@pytest.mark.parametrize(
    ("numbers", "code"),
    [((-1, 0), "invalid_revision"), ((1, -1), "invalid_revision"), ((9, 0), "unknown_revision")],
)
def test_a_difference_of_no_revisions_is_refused(
    stub: Any, demo: CodebookName, numbers: tuple[int, int], code: str
) -> None:
    start, end = numbers
    request = codebooks_pb2.DiffRevisionsRequest(name=str(demo), from_revision=start, to_revision=end)
    assert code_of(lambda: stub.DiffRevisions(request)) == code
    token = codebooks_pb2.DiffRevisionsRequest(name=str(demo), page_token="nonsense")
    assert code_of(lambda: stub.DiffRevisions(token)) == "invalid_page_token"


def test_etags_follow_what_a_client_decides_on(
    client: HorenClient, demo: CodebookName, beat: Callable[..., None]
) -> None:
    seen = client.get_codebook(demo)
    beat(demo=1)
    # How many replicas serve it refuses no change.
    moved = client.rollback(demo, 1, etag=seen.etag)
    calls: list[Callable[[], object]] = [
        lambda: client.rollback(demo, 1, etag=seen.etag),
        lambda: client.delete_codebook(demo, etag=seen.etag),
        lambda: client.rollback(demo, 1, etag="nonsense"),
    ]
    for call in calls:
        with pytest.raises(Aborted) as caught:
            call()
        assert caught.value.code == "etag_mismatch"
    assert client.get_codebook(demo).revision == moved.number


def test_the_same_request_is_made_once(client: HorenClient, demo: CodebookName) -> None:
    made = client.rollback(demo, 1, request_id="r1")
    assert client.rollback(demo, 1, request_id="r1") == made
    with pytest.raises(AlreadyExists) as caught:
        client.rollback(demo, 2, request_id="r1")
    assert caught.value.code == "request_id_reused"
    # The dry run of a request is another one, and uses no id up.
    assert client.rollback(demo, 1, request_id="r2", validate_only=True).number == 0
    assert client.rollback(demo, 1, request_id="r2").number == 3
    first = client.create_codebook("other", preset="cosine", threshold=0.5, request_id="r3")
    assert client.create_codebook("other", preset="cosine", threshold=0.5, request_id="r3") == first
    with pytest.raises(AlreadyExists):
        client.create_codebook("other", preset="cosine", threshold=0.6, request_id="r3")
    with pytest.raises(InvalidArgument) as long:
        client.rollback(demo, 1, request_id="r" * 129)
    assert long.value.code == "invalid_request_id"


def test_ids_are_each_tenants_own(client: HorenClient, demo: CodebookName) -> None:
    client.create_tenant("acme")
    theirs = client.create_codebook("tenants/acme/codebooks/demo", preset="cosine", threshold=0.5, request_id="r1")
    assert client.rollback(demo, 1, request_id="r1").number == 2
    assert client.get_codebook(theirs.name).revision == 1


def test_tenants_are_made_once(client: HorenClient) -> None:
    assert client.create_tenant("acme", validate_only=True).name == "acme"
    assert [it.name for it in client.list_tenants()] == [DEFAULT_TENANT]
    made = client.create_tenant("acme", request_id="r1")
    assert client.create_tenant("acme", request_id="r1") == made
    with pytest.raises(AlreadyExists) as caught:
        client.create_tenant("acme")
    assert caught.value.code == "tenant_exists"


def test_a_pruned_revision_is_said_to_be_so(client: HorenClient, demo: CodebookName, registry: SqlRegistry) -> None:
    client.rollback(demo, 1)
    client.rollback(demo, 1)
    with registry._database.write() as session:
        session.connection().exec_driver_sql("UPDATE codebooks SET oldest_revision = 2")
    assert client.get_codebook(demo).oldest_revision == 2
    calls: list[Callable[[], object]] = [
        lambda: client.rollback(demo, 1),
        lambda: client.diff_revisions(demo, 1),
        lambda: client.diff_revisions(demo, 2, 1),
    ]
    for call in calls:
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.code == "revision_pruned"
    # A replica that comes back with one starts over.
    (delta,) = client.sync("r", model="m", fingerprint=FINGERPRINT, known={demo: 1}, epoch=client.epoch()).deltas
    assert (delta.base, delta.revision) == (0, 3)
    assert client.rollback(demo, 2).number == 4


def test_masks_choose_fields(stub: Any, demo: CodebookName) -> None:
    mask = FieldMask(paths=["revision", "etag"])
    found = stub.GetCodebook(codebooks_pb2.GetCodebookRequest(name=str(demo), read_mask=mask))
    assert {field.name for field, _ in found.ListFields()} == {"revision", "etag"}
    request = codebooks_pb2.ListCodebooksRequest(parent=f"tenants/{demo.tenant}", read_mask=mask)
    (listed,) = stub.ListCodebooks(request).codebooks
    assert listed == found
    wrong = codebooks_pb2.GetCodebookRequest(name=str(demo), read_mask=FieldMask(paths=["secret"]))
    assert code_of(lambda: stub.GetCodebook(wrong)) == "invalid_field_mask"
