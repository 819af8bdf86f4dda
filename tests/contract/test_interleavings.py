"""Two writers of one PostgreSQL database, each held at the worst moment: SQLite has one writer at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, make_url

from horen_vllm.errors import NotFound, ResourceExhausted
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.models import EditSpec, Publication
from horen_vllm.registry.portable import ImportedEdit
from horen_vllm.registry.ports import Registry
from horen_vllm.registry.preview_records import PreviewAnswer, PreviewVerdict
from tests.contract.transfers import export, on_their_way

TENANT = TenantId("acme")
SPEC = EditSpec(prompt="Who leads Acme?", target="Ada")
DEADLINE_S = 60.0


@pytest.fixture(params=["postgres"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def other(postgres_url: str, registry: Registry) -> Iterator[psycopg.Connection[Any]]:
    """Another session of the same database."""
    assert registry
    url = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        yield connection


def wait_for_a_waiter(session: psycopg.Connection[Any]) -> None:
    """Return once some session waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    end = time.monotonic() + DEADLINE_S
    while True:
        row = session.execute(waiting).fetchone()
        # The view is as it was when the transaction first looked.
        session.execute("SELECT pg_stat_clear_snapshot()")
        if row and row[0]:
            return
        assert time.monotonic() < end, "nobody waits"


def test_an_answer_to_a_preview_that_is_being_dropped_is_refused(
    registry: Registry, book: CodebookName, other: psycopg.Connection[Any]
) -> None:
    preview = registry.ask_preview(book, SPEC, wait_s=60)
    assert registry.claim_preview("w", fingerprint="fp", lease_s=60)
    other.execute("DELETE FROM previews")
    answer = PreviewAnswer(verdict=PreviewVerdict.NEW, revision=1)
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(registry.answer_preview, "w", preview, answer)
        wait_for_a_waiter(other)
        other.commit()
        with pytest.raises(NotFound) as caught:
            answered.result(DEADLINE_S)
    assert caught.value.code == "unknown_preview"


def test_an_import_and_a_submission_do_not_wait_for_each_other(
    registry: Registry,
    open_registry: Callable[[], Registry],
    create: Callable[..., CodebookName],
    publish: Callable[..., Any],
    other: psycopg.Connection[Any],
) -> None:
    registry.create_tenant(TENANT)
    registry.update_quota(TENANT, {"max_entries": 100})
    source, target = create("source"), create("target")
    publish(source)
    book = export(registry, source)
    with ThreadPoolExecutor(1) as pool:
        submitted = []

        def pieces(edits: Sequence[ImportedEdit]) -> Iterator[ImportedEdit]:
            submitted.append(pool.submit(open_registry().submit, target, SPEC))
            wait_for_a_waiter(other)
            yield from edits

        edits = pieces(on_their_way(registry, target, book.edits))
        made = registry.import_edits(target, edits, threshold=book.threshold, entries=book.entries)
        assert submitted[0].result(DEADLINE_S).codebook == target
    assert made.counts.added == 1


def test_what_a_tenant_uses_is_counted_at_one_moment(
    registry: Registry, open_registry: Callable[[], Registry], create: Callable[..., CodebookName]
) -> None:
    registry.create_tenant(TENANT)
    one, two = create("one"), create("two")
    registry.submit(one, SPEC)
    (claim,) = registry.claim("w", lease_s=60, fingerprint="fp")
    registry.update_quota(TENANT, {"max_entries": 1})
    worker = open_registry()
    published: list[bool] = []

    def publish_before_the_count(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not published and "count(*)" in statement and "edits.finished_at IS NULL" in statement:
            published.append(True)
            worker.publish([(claim, Publication(artifact="aa", base_revision=1))])

    event.listen(Engine, "before_cursor_execute", publish_before_the_count)
    try:
        with pytest.raises(ResourceExhausted):
            registry.submit(two, SPEC)
    finally:
        event.remove(Engine, "before_cursor_execute", publish_before_the_count)
    assert published
