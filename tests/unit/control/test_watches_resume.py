"""Watches go on where they were, whatever becomes of the server."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import Queue

import pytest

from horen_vllm.control.client import HorenClient, RevisionView
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.errors import InvalidArgument, NotFound, Unavailable
from horen_vllm.ids import CodebookName
from horen_vllm.registry.store import SqlRegistry

WAIT_S = 30.0


class Follower:
    """Reads a watch on a thread of its own."""

    def __init__(self, views: Iterator[RevisionView]) -> None:
        self._received: Queue[int] = Queue()
        self._thread = threading.Thread(target=self._read, args=(views,), daemon=True)
        self._thread.start()

    def _read(self, views: Iterator[RevisionView]) -> None:
        for view in views:
            self._received.put(view.number)

    def take(self, count: int) -> list[int]:
        return [self._received.get(timeout=WAIT_S) for _ in range(count)]

    def rest(self) -> list[int]:
        return [self._received.get_nowait() for _ in range(self._received.qsize())]


def test_every_revision_comes_once_in_order_through_restarts(
    server: ControlServer,
    client: HorenClient,
    demo: CodebookName,
    registry: SqlRegistry,
    settings: ControlSettings,
) -> None:
    follower = Follower(client.watch_revisions(demo, timeout_s=2 * WAIT_S))
    assert follower.take(1) == [1]
    expected, running = [1], server
    for _ in range(3):
        expected += [registry.rollback(demo, 1).number for _ in range(2)]
        running.stop()
        # Made while no server is there.
        expected += [registry.rollback(demo, 1).number for _ in range(2)]
        running = serve(registry, replace(settings, port=server.port))
    try:
        expected.append(registry.rollback(demo, 1).number)
        assert [1, *follower.take(len(expected) - 1)] == expected == list(range(1, 15))
        assert follower.rest() == []
    finally:
        running.stop()


def test_two_control_planes_on_one_database_send_the_same(
    server: ControlServer, client: HorenClient, demo: CodebookName, registry: SqlRegistry, settings: ControlSettings
) -> None:
    with serve(registry, settings) as second, HorenClient(second.address) as other:
        followers = [Follower(it.watch_revisions(demo, timeout_s=WAIT_S)) for it in (client, other)]
        for number in range(2, 12):
            assert (client if number % 2 else other).rollback(demo, 1).number == number
        assert [it.take(11) for it in followers] == [list(range(1, 12))] * 2


def test_a_cursor_leaves_out_what_is_known(client: HorenClient, demo: CodebookName, registry: SqlRegistry) -> None:
    for _ in range(3):
        registry.rollback(demo, 1)
    watch = client.watch_revisions(demo, after_revision=2, timeout_s=WAIT_S)
    assert [next(watch).number for _ in range(2)] == [3, 4]
    assert list(client.watch_revisions(demo, after_revision=4, timeout_s=0.3)) == []


def test_a_long_history_comes_as_a_whole(client: HorenClient, demo: CodebookName, registry: SqlRegistry) -> None:
    for _ in range(1_200):
        registry.rollback(demo, 1)
    watch = client.watch_revisions(demo, timeout_s=WAIT_S)
    assert [next(watch).number for _ in range(1_201)] == list(range(1, 1_202))


@pytest.mark.parametrize(
    ("after", "error", "code"), [(-1, InvalidArgument, "invalid_revision"), (2, NotFound, "unknown_revision")]
)
def test_a_cursor_that_nothing_can_follow_is_refused(
    client: HorenClient, demo: CodebookName, after: int, error: type[Exception], code: str
) -> None:
    with pytest.raises(error) as caught:
        next(client.watch_revisions(demo, after_revision=after, timeout_s=WAIT_S))
    assert getattr(caught.value, "code", None) == code


def test_a_watch_of_revisions_ends_with_its_codebook(client: HorenClient, demo: CodebookName) -> None:
    watch = client.watch_revisions(demo, timeout_s=WAIT_S)
    assert next(watch).number == 1
    client.delete_codebook(demo)
    with pytest.raises(NotFound) as caught:
        next(watch)
    assert caught.value.code == "unknown_codebook"


def test_a_codebook_is_sent_again_once_it_differs(
    server: ControlServer, client: HorenClient, demo: CodebookName, registry: SqlRegistry, settings: ControlSettings
) -> None:
    watch = client.watch_codebook(demo, timeout_s=WAIT_S)
    first = next(watch)
    assert list(client.watch_codebook(demo, after_etag=first.etag, timeout_s=0.3)) == []
    server.stop()
    registry.rollback(demo, 1)
    with serve(registry, replace(settings, port=server.port)):
        second = next(watch)
        assert (second.revision, second.etag != first.etag) == (2, True)
        client.delete_codebook(demo)
        assert next(watch).deleted_at is not None


def test_a_change_of_replicas_is_sent_and_refuses_no_change(
    client: HorenClient, demo: CodebookName, beat: Callable[..., None]
) -> None:
    watch = client.watch_codebook(demo, timeout_s=WAIT_S)
    seen = next(watch)
    beat(demo=1)
    assert next(watch).etag != seen.etag
    assert client.rollback(demo, 1, etag=seen.etag).number == 2


def test_a_server_that_was_never_there_is_said_so() -> None:
    with HorenClient("127.0.0.1:1", timeout_s=0.5) as client, pytest.raises(Unavailable) as caught:
        next(client.watch_revisions("demo"))
    assert caught.value.code == "control_unavailable"


def test_a_watch_ends_quietly_while_nobody_answers(
    server: ControlServer, client: HorenClient, demo: CodebookName
) -> None:
    watch = client.watch_codebook(demo, timeout_s=1.5)
    next(watch)
    server.stop()
    assert list(watch) == []
