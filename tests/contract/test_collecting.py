"""What the registry forgets, and what it never does: on the databases, for in memory nothing is ever collected."""

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horen_vllm.errors import FailedPrecondition, NotFound
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.models import EditRecord, EditSpec, Publication, ReplicaReport
from horen_vllm.registry.store import SqlRegistry
from tests.contract.conftest import PARAMETERS, ManualClock

DAY = 86_400.0
BOOK = CodebookName(TenantId("acme"), "facts")
_NUMBERS = count(1)


class Files(set[str]):
    """An artifact store of which only the names matter."""

    def delete(self, digest: str) -> None:
        self.discard(digest)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sql(registry: object) -> SqlRegistry:
    assert isinstance(registry, SqlRegistry)
    return registry


@pytest.fixture
def files() -> Files:
    return Files()


on_databases = pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
pytestmark = on_databases


def make_book(registry: SqlRegistry, name: CodebookName = BOOK) -> CodebookName:
    registry.create_codebook(name, model="m", fingerprint="fp", site="s", parameters=PARAMETERS)
    return name


def publish(registry: SqlRegistry, files: Files, book: CodebookName, digest: str | None = None) -> EditRecord:
    """Make an entry as a worker does: register, write, publish."""
    digest = digest or f"{next(_NUMBERS):064x}"
    edit = registry.submit(book, EditSpec(prompt=f"prompt {digest}", target="x"))
    (claim,) = registry.claim("w", lease_s=30, fingerprint="fp")
    assert claim.edit.edit_id == edit.edit_id
    registry.register_artifacts({digest: 10})
    files.add(digest)
    base = registry.get_codebook(book).revision
    (edit,) = registry.publish([(claim, Publication(artifact=digest, base_revision=base))])
    return edit


def collect(registry: SqlRegistry, files: Files, clock: ManualClock) -> set[str]:
    """Run the collector until nothing more goes, and return what went."""
    before = set(files)
    for _ in range(3):
        clock.advance(2 * DAY)
        registry.condemn_artifacts(grace_s=DAY)
        clock.advance(2 * DAY)
        registry.sweep_artifacts(files.delete, grace_s=DAY)
    return before - files


def test_what_a_revision_contains_stays(sql: SqlRegistry, files: Files, clock: ManualClock) -> None:
    book = make_book(sql)
    publish(sql, files, book)
    sql.retire_edit(publish(sql, files, book).edit_id)
    assert collect(sql, files, clock) == set()


def test_what_was_never_published_goes_and_not_before_its_time(
    sql: SqlRegistry, files: Files, clock: ManualClock
) -> None:
    sql.register_artifacts({"a" * 64: 1})
    files.add("a" * 64)
    assert list(sql.condemn_artifacts(grace_s=DAY)) == []
    clock.advance(DAY)
    assert list(sql.condemn_artifacts(grace_s=DAY, dry_run=True)) == ["a" * 64]
    assert list(sql.condemn_artifacts(grace_s=DAY)) == ["a" * 64]
    assert list(sql.sweep_artifacts(files.delete, grace_s=DAY)) == []
    assert files == {"a" * 64}
    clock.advance(DAY)
    assert list(sql.sweep_artifacts(files.delete, grace_s=DAY)) == ["a" * 64]
    assert files == set()


def test_pruned_revisions_take_their_entries_with_them(sql: SqlRegistry, files: Files, clock: ManualClock) -> None:
    book = make_book(sql)
    gone = publish(sql, files, book)
    sql.retire_edit(gone.edit_id)
    kept = publish(sql, files, book)
    (pruned,) = sql.prune_revisions(1)
    assert (pruned.codebook, pruned.oldest, pruned.kept_for) == (book, 4, ())
    assert collect(sql, files, clock) == {gone.artifact}
    assert [it.edit_id for it in sql.entries(book)] == [kept.edit_id]
    for call in (lambda: sql.rollback(book, 2), lambda: sql.entries(book, 3), lambda: sql.delta(book, 3)):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.code == "revision_pruned"
    assert sql.delta(book, 0).added == sql.entries(book)
    assert sql.list_audit_events()[-1].method == "prune_revisions"


def test_a_live_replica_keeps_what_it_serves(sql: SqlRegistry, files: Files, clock: ManualClock) -> None:
    book = make_book(sql)
    served = publish(sql, files, book)
    sql.retire_edit(served.edit_id)
    publish(sql, files, book)
    report = ReplicaReport(applied={book: 2}, probed={})
    sql.heartbeat("r1", model="m", fingerprint="fp", epoch=sql.epoch(), report=report, lease_s=60)
    (pruned,) = sql.prune_revisions(1)
    assert (pruned.oldest, pruned.kept_for) == (2, ("r1",))
    assert [it.artifact for it in sql.entries(book, 2)] == [served.artifact]
    clock.advance(61)
    (pruned,) = sql.prune_revisions(1)
    assert (pruned.oldest, pruned.kept_for) == (4, ())
    assert collect(sql, files, clock) == {served.artifact}


def test_spaces_and_backgrounds_stay(sql: SqlRegistry, files: Files, clock: ManualClock) -> None:
    space, background, loose = ("1" * 64, "2" * 64, "3" * 64)
    sql.register_artifacts(dict.fromkeys((space, background, loose), 5))
    files.update((space, background, loose))
    fitted = replace(PARAMETERS, space=space)
    sql.create_codebook(BOOK, model="m", fingerprint="fp", site="s", parameters=fitted)
    following = replace(PARAMETERS, background=background, false_fire_rate=0.01)
    sql.add_calibration(
        fingerprint="fp", site="s", presets={"calibrated": following}, recommended="calibrated", summary={}
    )
    assert collect(sql, files, clock) == {loose}


def test_a_deleted_codebook_is_kept_until_it_is_purged(sql: SqlRegistry, files: Files, clock: ManualClock) -> None:
    book = make_book(sql)
    edit = publish(sql, files, book)
    sql.delete_codebook(book)
    assert list(sql.purge_deleted()) == []
    assert collect(sql, files, clock) == set()
    sql.undelete_codebook(book)
    assert [it.edit_id for it in sql.entries(book)] == [edit.edit_id]
    sql.delete_codebook(book)
    clock.advance(31 * DAY)
    assert list(sql.purge_deleted()) == [book]
    assert list(sql.purge_deleted()) == []
    with pytest.raises(NotFound) as caught:
        sql.undelete_codebook(book)
    assert caught.value.code == "codebook_purged"
    assert collect(sql, files, clock) == {edit.artifact}


def test_a_condemned_file_is_stored_again_before_it_is_published(
    sql: SqlRegistry, files: Files, clock: ManualClock
) -> None:
    book, digest = make_book(sql), "d" * 64
    sql.register_artifacts({digest: 1})
    files.add(digest)
    clock.advance(DAY)
    assert list(sql.condemn_artifacts(grace_s=DAY)) == [digest]
    with pytest.raises(FailedPrecondition) as caught:
        publish_unregistered(sql, book, digest)
    assert caught.value.code == "artifact_collected"
    clock.advance(31)
    sql.register_artifacts({digest: 1})
    publish_unregistered(sql, book, digest, submit=False)
    assert collect(sql, files, clock) == set()


def test_what_an_interrupted_collection_deleted_cannot_be_published(
    sql: SqlRegistry, files: Files, clock: ManualClock
) -> None:
    book, digest = make_book(sql), "d" * 64
    sql.register_artifacts({digest: 1})
    files.add(digest)
    clock.advance(DAY)
    sql.condemn_artifacts(grace_s=DAY)
    clock.advance(DAY)

    def dies(name: str) -> None:
        files.delete(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sql.sweep_artifacts(dies, grace_s=DAY)
    with pytest.raises(FailedPrecondition) as caught:
        publish_unregistered(sql, book, digest)
    assert caught.value.code == "artifact_collected"


def test_a_deleted_file_cannot_be_published(sql: SqlRegistry, files: Files, clock: ManualClock) -> None:
    book, digest = make_book(sql), "d" * 64
    sql.register_artifacts({digest: 1})
    files.add(digest)
    assert collect(sql, files, clock) == {digest}
    with pytest.raises(FailedPrecondition) as caught:
        publish_unregistered(sql, book, digest)
    assert caught.value.code == "artifact_collected"
    clock.advance(31)
    sql.register_artifacts({digest: 1})
    files.add(digest)
    publish_unregistered(sql, book, digest, submit=False)
    assert collect(sql, files, clock) == set()


def publish_unregistered(registry: SqlRegistry, book: CodebookName, digest: str, *, submit: bool = True) -> None:
    if submit:
        registry.submit(book, EditSpec(prompt="who?", target="x"))
    (claim,) = registry.claim("w", lease_s=30, fingerprint="fp")
    base = registry.get_codebook(book).revision
    registry.publish([(claim, Publication(artifact=digest, base_revision=base))])


def test_a_collection_that_was_interrupted_is_finished_later(
    sql: SqlRegistry, files: Files, clock: ManualClock
) -> None:
    digest = "e" * 64
    sql.register_artifacts({digest: 1})
    files.add(digest)
    clock.advance(DAY)
    sql.condemn_artifacts(grace_s=DAY)
    clock.advance(DAY)

    def breaks(_digest: str) -> None:
        files.delete(digest)
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="gone"):
        sql.sweep_artifacts(breaks, grace_s=DAY)
    assert list(sql.sweep_artifacts(files.delete, grace_s=DAY)) == [digest]


def test_whoever_registers_waits_for_a_deletion(
    open_registry: Callable[[], SqlRegistry], files: Files, clock: ManualClock
) -> None:
    collector, writer, digest = open_registry(), open_registry(), "f" * 64
    writer.register_artifacts({digest: 1})
    files.add(digest)
    clock.advance(DAY)
    collector.condemn_artifacts(grace_s=DAY)
    clock.advance(DAY)
    began, written = threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        writer.register_artifacts({digest: 1})
        files.add(digest)
        written.set()

    thread = threading.Thread(target=write)

    def remove(name: str) -> None:
        thread.start()
        assert began.wait(10)
        # It must not get through while the row is held.
        assert not written.wait(0.3)
        files.delete(name)

    assert list(collector.sweep_artifacts(remove, grace_s=DAY)) == [digest]
    thread.join(10)
    assert files == {digest}
    assert collect(collector, files, clock) == {digest}


def test_files_from_before_the_register_are_adopted(sql: SqlRegistry, files: Files, clock: ManualClock) -> None:
    book, old, lost = make_book(sql), "b" * 64, "c" * 64
    publish_unregistered(sql, book, old)
    files.update((old, lost))
    unknown = sql.unknown_artifacts(dict.fromkeys(files, 1))
    assert unknown == {old: 1, lost: 1}
    assert collect(sql, files, clock) == set()
    sql.register_artifacts(unknown)
    assert sql.unknown_artifacts(dict.fromkeys(files, 1)) == {}
    assert collect(sql, files, clock) == {lost}


class Life:
    """One codebook, and everything that may happen to it in any order."""

    def __init__(self, registry: SqlRegistry, clock: ManualClock) -> None:
        self.registry, self.clock, self.files = registry, clock, Files()
        self.book = make_book(registry, CodebookName(TenantId("acme"), f"b{next(_NUMBERS)}"))
        self.edits: list[EditRecord] = []

    def time(self, _choice: int) -> None:
        self.clock.advance(0.7 * DAY)

    def condemn(self, _choice: int) -> None:
        self.registry.condemn_artifacts(grace_s=DAY)

    def sweep(self, _choice: int) -> None:
        self.registry.sweep_artifacts(self.files.delete, grace_s=DAY)

    def prune(self, _choice: int) -> None:
        self.registry.prune_revisions(2)

    def publish(self, _choice: int) -> None:
        self.edits.append(publish(self.registry, self.files, self.book))

    def publish_again(self, choice: int) -> None:
        if self.edits:
            same = self.edits[choice % len(self.edits)].artifact
            self.edits.append(publish(self.registry, self.files, self.book, same))

    def retire(self, choice: int) -> None:
        if self.edits:
            self.registry.retire_edit(self.edits[choice % len(self.edits)].edit_id)

    def rollback(self, choice: int) -> None:
        self.registry.rollback(self.book, self._kept(choice))

    def beat(self, choice: int) -> None:
        report = ReplicaReport(applied={self.book: self._kept(choice)}, probed={})
        epoch = self.registry.epoch()
        self.registry.heartbeat(
            f"r{self.book}", model="m", fingerprint="fp", epoch=epoch, report=report, lease_s=2 * DAY
        )

    def delete_for_a_while(self, _choice: int) -> None:
        self.registry.delete_codebook(self.book)
        for step in (self.condemn, self.time, self.time, self.sweep, self.prune):
            step(0)
        self.registry.undelete_codebook(self.book)

    def _kept(self, choice: int) -> int:
        codebook = self.registry.get_codebook(self.book)
        return codebook.oldest_revision + choice % (codebook.revision - codebook.oldest_revision + 1)


STEPS = [getattr(Life, name) for name in vars(Life) if not name.startswith("_")]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 50)), min_size=5, max_size=40))
def test_nothing_that_is_needed_ever_goes(
    steps: list[tuple[Callable[[Life, int], None], int]], sql: SqlRegistry, clock: ManualClock
) -> None:
    life = Life(sql, clock)
    for step, choice in steps:
        step(life, choice)
        check(sql, life.files, life.book)


def check(registry: SqlRegistry, files: Files, book: CodebookName) -> None:
    """Check that every retained revision, and what a live replica serves, can be read."""
    codebook = registry.get_codebook(book)
    for revision in range(codebook.oldest_revision, codebook.revision + 1):
        assert {it.artifact for it in registry.entries(book, revision)} <= files
    for replica in registry.live_replicas():
        assert replica.report.applied.get(book, codebook.revision) >= codebook.oldest_revision


def test_an_entry_of_a_kept_edit_is_known_by_its_id(sql: SqlRegistry, files: Files, clock: ManualClock) -> None:
    book = make_book(sql)
    first = publish(sql, files, book)
    second = publish(sql, files, book, first.artifact)
    sql.retire_edit(EditId(first.edit_id))
    sql.prune_revisions(1)
    # Two edits share the file; one of them is still there.
    assert collect(sql, files, clock) == set()
    assert [it.edit_id for it in sql.entries(book)] == [second.edit_id]
