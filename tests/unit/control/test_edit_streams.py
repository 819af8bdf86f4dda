"""SubmitEdits over real gRPC: order, outcomes, back-pressure, restarts."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest

from horen_vllm.control._pb.horen.v1 import edits_pb2, edits_pb2_grpc
from horen_vllm.control.client import HorenClient, SubmitOutcome
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.services.submissions import OUTSTANDING
from horen_vllm.control.settings import ControlSettings
from horen_vllm.errors import AlreadyExists, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.store import SqlRegistry

WAIT_S = 30.0


def specs(count: int, first: int = 0) -> list[EditSpec]:
    return [EditSpec(prompt=f"Question {number}?", target="Ada") for number in range(first, first + count)]


def prompts(outcomes: Iterator[SubmitOutcome]) -> list[str | None]:
    return [None if it.edit is None else it.edit.spec.prompt for it in outcomes]


def test_edits_are_stored_and_answered_in_order(client: HorenClient, demo: CodebookName) -> None:
    many = specs(700)
    outcomes = list(client.submit_edits(demo, iter(many), ttl_s=60))
    assert [it.index for it in outcomes] == list(range(700))
    assert prompts(iter(outcomes)) == [spec.prompt for spec in many]
    stored = list(client.list_edits(demo, page_size=1000))
    assert [edit.spec for edit in stored] == many
    assert [edit.sequence for edit in stored] == list(range(1, 701))
    assert {edit.edit_id for edit in stored} == {it.edit.edit_id for it in outcomes if it.edit}
    assert all(edit.expires_at is not None for edit in stored)


def test_a_refused_edit_stops_no_other(client: HorenClient, demo: CodebookName) -> None:
    good, *rest = specs(3)
    bad = replace(good, prompt=" ", target="t" * 20_000)
    ids = ["one", "two", "one", "three"]
    outcomes = list(client.submit_edits(demo, [good, bad, *rest], request_id=lambda number, _spec: ids[number]))
    assert prompts(iter(outcomes)) == [good.prompt, None, None, rest[1].prompt]
    assert isinstance(outcomes[1].error, InvalidArgument)
    assert outcomes[1].error.code == "empty_prompt"
    assert isinstance(outcomes[2].error, AlreadyExists)
    assert outcomes[2].error.code == "request_id_reused"
    assert len(list(client.list_edits(demo))) == 2


def test_every_edit_of_an_unknown_codebook_is_refused(client: HorenClient) -> None:
    outcomes = list(client.submit_edits("nothing", specs(3)))
    assert [type(it.error) for it in outcomes] == [NotFound] * 3
    assert {it.error.code for it in outcomes if it.error} == {"unknown_codebook"}


def test_a_stream_is_of_one_codebook(server: ControlServer, client: HorenClient, demo: CodebookName) -> None:
    other = client.create_codebook("other", preset="cosine", threshold=0.85).name
    with grpc.insecure_channel(server.address) as channel:
        submit = edits_pb2_grpc.EditServiceStub(channel).SubmitEdits  # type: ignore[no-untyped-call]
        spec = edits_pb2.EditSpec(prompt="Who?", target="Ada")
        requests = [
            edits_pb2.SubmitEditsRequest(edit=edits_pb2.SubmitEditRequest(parent=str(book), spec=spec))
            for book in (demo, other, demo)
        ]
        answers = list(submit(iter(requests), timeout=WAIT_S))
    assert [answer.WhichOneof("outcome") for answer in answers] == ["edit", "refusal", "edit"]
    refusal = answers[1].refusal
    assert (refusal.code, refusal.status) == ("mixed_codebooks", grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert [len(list(client.list_edits(book))) for book in (demo, other)] == [2, 0]


def test_nothing_is_answered_with_nothing(client: HorenClient, demo: CodebookName) -> None:
    assert list(client.submit_edits(demo, [])) == []


def test_what_the_source_raises_comes_behind_the_outcomes(client: HorenClient, demo: CodebookName) -> None:
    def broken() -> Iterator[EditSpec]:
        yield from specs(2)
        raise OSError("the file is gone")

    outcomes = client.submit_edits(demo, broken())
    assert [next(outcomes).index for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="the file is gone"):
        next(outcomes)


def test_the_server_reads_no_further_than_it_is_asked_for_answers(server: ControlServer, demo: CodebookName) -> None:
    sent = 0

    def endless() -> Iterator[edits_pb2.SubmitEditsRequest]:
        nonlocal sent
        # As large as the buffers of a connection, so that not they take what the server does not.
        spec = edits_pb2.EditSpec(prompt="Who?" + " " * 30_000, target="Ada")
        while True:
            sent += 1
            yield edits_pb2.SubmitEditsRequest(edit=edits_pb2.SubmitEditRequest(parent=str(demo), spec=spec))

    with grpc.insecure_channel(server.address) as channel:
        submit = edits_pb2_grpc.EditServiceStub(channel).SubmitEdits  # type: ignore[no-untyped-call]
        call = submit(endless())
        next(call)
        before = -1
        while before != sent:
            before = sent
            threading.Event().wait(0.5)
        assert sent < 20 * OUTSTANDING
        for _ in range(2 * OUTSTANDING):
            next(call)
        call.cancel()


def test_a_stream_goes_on_through_a_restart_and_stores_each_edit_once(
    server: ControlServer,
    client: HorenClient,
    demo: CodebookName,
    registry: SqlRegistry,
    settings: ControlSettings,
) -> None:
    many = specs(300)
    first_half = threading.Event()

    def source() -> Iterator[EditSpec]:
        yield from many[:150]
        assert first_half.wait(WAIT_S)
        yield from many[150:]

    outcomes = client.submit_edits(demo, source())
    seen = [next(outcomes) for _ in range(100)]
    server.stop()
    running = serve(registry, replace(settings, port=server.port))
    try:
        first_half.set()
        seen += list(outcomes)
    finally:
        running.stop()
    assert [it.index for it in seen] == list(range(300))
    assert prompts(iter(seen)) == [spec.prompt for spec in many]
    assert [edit.spec for edit in registry.list_edits(demo)] == many


def test_a_stream_without_a_server_gives_up(server: ControlServer, client: HorenClient, demo: CodebookName) -> None:
    server.stop()
    with pytest.raises(Unavailable) as caught:
        list(client.submit_edits(demo, specs(1)))
    assert caught.value.code == "control_unavailable"


def test_a_quota_refuses_the_edits_beyond_it(client: HorenClient, demo: CodebookName) -> None:
    client.update_quota(DEFAULT_TENANT, {"max_pending": 2})
    outcomes = list(client.submit_edits(demo, specs(4)))
    assert [type(it.error) for it in outcomes] == [type(None), type(None), ResourceExhausted, ResourceExhausted]
