"""The checker finds what is wrong: whatever is done to a good history, and servers that are broken on purpose."""

import json
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.control.client import HorenClient
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import RevisionKind, RevisionRecord
from horen_vllm.registry.store import SqlRegistry
from tests.faults.checker import Evidence
from tests.faults.conftest import BOOK, make_book
from tests.faults.history import Call, Driver, Op
from tests.faults.parts import Installation
from tests.faults.plant import running_plant

OPS = (Op.SUBMIT, Op.SUBMIT, Op.ROLLBACK, Op.RETIRE, Op.EDIT, Op.SERVING)


@dataclass
class Story:
    """A history without a fault, and what it left."""

    folder: Path
    calls: list[Call]

    @property
    def database(self) -> Path:
        return self.folder / "registry.db"

    @property
    def journal(self) -> Path:
        return self.folder / "r1.jsonl"

    def sql(self, statement: str, *values: Any) -> None:
        """Change the database behind the registry's back; the statement must change something."""
        assert self.run_sql(statement, *values) > 0

    def run_sql(self, statement: str, *values: Any) -> int:
        """Return how many rows a statement has changed."""
        with sqlite3.connect(self.database) as connection:
            changed = connection.execute(statement, values).rowcount
        connection.close()
        return changed

    def number(self, query: str) -> Any:
        connection = sqlite3.connect(self.database)
        (found,) = connection.execute(query).fetchone()
        connection.close()
        return found

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.journal.read_text(encoding="utf-8").splitlines()]

    def write_lines(self, lines: list[dict[str, Any]]) -> None:
        self.journal.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def complaints(self) -> list[str]:
        registry = SqlRegistry(f"sqlite:///{self.database}")
        try:
            return Evidence(self.calls, registry, BOOK, self.folder / "artifacts", [self.journal]).check()
        finally:
            registry.close()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Story:
    folder = tmp_path_factory.mktemp("story")
    (folder / "packs").mkdir()
    url = f"sqlite:///{shutil.copy(migrated_sqlite, folder / 'registry.db')}"
    registry = SqlRegistry(url)
    make_book(registry)
    with running_plant(Installation(url=url, folder=folder), {}) as plant:
        calls = run(plant.ports["control"], seed=3, steps=10)
    registry.close()
    return Story(folder, calls)


@pytest.fixture
def story(told: Story, tmp_path: Path) -> Story:
    """The story, to be changed by one test."""
    return Story(shutil.copytree(told.folder, tmp_path / "story"), list(told.calls))


def run(port: int, *, seed: int, steps: int) -> list[Call]:
    with HorenClient(f"127.0.0.1:{port}", timeout_s=5.0) as client:
        return Driver(client, BOOK, seed, OPS).run(steps)


def test_a_history_without_a_fault_is_good(story: Story) -> None:
    assert {call.op for call in story.calls} == set(Op)
    assert {line.get("flip") for line in story.lines()} >= {str(BOOK)}
    assert story.complaints() == []


def lose_an_edit(story: Story) -> None:
    story.sql("DELETE FROM edits WHERE state = 'failed'")


def lose_a_revision(story: Story) -> None:
    story.sql("DELETE FROM revisions WHERE number = 3")


def lose_the_last_rollback(story: Story) -> None:
    last = story.number("SELECT max(number) FROM revisions WHERE kind = 'rollback'")
    story.sql("UPDATE revisions SET kind = 'threshold', restored = NULL WHERE number = ?", last)


def restore_another_revision(story: Story) -> None:
    story.sql("UPDATE revisions SET restored = restored - 1 WHERE kind = 'rollback' AND restored > 1")


def keep_an_entry(story: Story) -> None:
    story.sql("UPDATE memberships SET to_revision = to_revision + 1 WHERE to_revision IS NOT NULL")


def bring_back_a_retired_edit(story: Story) -> None:
    active = "(SELECT edit_id FROM memberships WHERE to_revision IS NULL)"
    story.sql(f"UPDATE edits SET retired_at = updated_at WHERE edit_id IN {active}")


def forget_a_retirement(story: Story) -> None:
    edit = story.calls[next(i for i, call in enumerate(story.calls) if call.op is Op.RETIRE)].asked
    story.calls = [call for call in story.calls if call.op is not Op.ROLLBACK]
    story.sql("UPDATE edits SET retired_at = NULL WHERE edit_id = ?", edit.edit_id)


def make_an_edit_twice(story: Story) -> None:
    submitted = next(call for call in story.calls if call.op is Op.SUBMIT)
    story.calls.append(replace(submitted, answer=replace(submitted.answer, edit_id="e" * 24)))


def answer_two_requests_with_one_edit(story: Story) -> None:
    submitted = next(call for call in story.calls if call.op is Op.SUBMIT)
    story.calls.append(replace(submitted, request_id="another"))


def store_another_text(story: Story) -> None:
    story.sql("UPDATE edits SET target = 'Zoe' WHERE sequence = 1")


def fail_what_was_published(story: Story) -> None:
    story.sql("UPDATE edits SET state = 'failed' WHERE sequence = 1")


def move_a_publication(story: Story) -> None:
    story.sql("UPDATE edits SET published_revision = 1 WHERE sequence = 1")


def lose_an_artifact(story: Story) -> None:
    next((story.folder / "artifacts").glob("*/*.safetensors")).unlink()


def damage_an_artifact(story: Story) -> None:
    path = next((story.folder / "artifacts").glob("*/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def change_a_threshold(story: Story) -> None:
    story.sql("UPDATE revisions SET threshold = 0.123 WHERE kind = 'publish' AND number = 2")


def serve_other_entries(story: Story) -> None:
    story.write_lines([{**line, "entries": ["x"]} if line.get("flip") else line for line in story.lines()])


def say_too_early_that_a_revision_is_served(story: Story) -> None:
    story.write_lines([{**line, "at": line["at"] + 3600} for line in story.lines()])


def answer_with_an_old_revision(story: Story) -> None:
    last = story.lines()[-1]
    story.write_lines([*story.lines(), {**last, "books": {str(BOOK): [1, 0]}, "confirmed_at": last["at"]}])


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lose_an_edit, "was acknowledged and is not there"),
        (lose_a_revision, "not gapless"),
        (lose_the_last_rollback, "was acknowledged and is not there"),
        (restore_another_revision, "(rollback) has"),
        (keep_an_entry, "expected"),
        (bring_back_a_retired_edit, "is retired and serving"),
        (forget_a_retirement, "was retired, and is"),
        (make_an_edit_twice, "was answered with"),
        (answer_two_requests_with_one_edit, "answers 2 request ids"),
        (store_another_text, "is not what was submitted"),
        (fail_what_was_published, "is failed and in revisions"),
        (move_a_publication, "which lacks it"),
        (lose_an_artifact, "unknown_artifact"),
        (damage_an_artifact, "artifact_corrupt"),
        (change_a_threshold, "has the threshold"),
        (serve_other_entries, "served ['x'] as revision"),
        (say_too_early_that_a_revision_is_served, "and 0 had it"),
        (answer_with_an_old_revision, "answered with revision 1 after"),
    ],
)
def test_what_is_wrong_is_found(story: Story, break_it: Callable[[Story], None], complaint: str) -> None:
    break_it(story)
    assert any(complaint in it for it in story.complaints()), story.complaints()


def acknowledge_rollbacks_too_early() -> None:
    """Answer before the commit, and die before it."""

    def rollback(self: SqlRegistry, name: CodebookName, to: int, **_options: Any) -> RevisionRecord:
        codebook = self.get_codebook(name)
        # The restarted process finds the mark, and does its work.
        mark = Path(f"{self._database.engine.url.database}.acknowledged")
        if mark.exists():
            return original(self, name, to, **_options)
        mark.touch()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return RevisionRecord(
            codebook=name,
            number=codebook.revision + 1,
            kind=RevisionKind.ROLLBACK,
            edit_id=None,
            restored=to,
            entry_count=0,
            threshold=0.5,
            created_at=codebook.created_at,
        )

    original = SqlRegistry.rollback
    SqlRegistry.rollback = rollback  # type: ignore[assignment,method-assign]


def test_a_server_that_forgets_request_ids_is_found(sqlite_place: Installation) -> None:
    registry = SqlRegistry(sqlite_place.url)
    make_book(registry)
    Story(sqlite_place.folder, []).run_sql(
        "CREATE TRIGGER forget AFTER INSERT ON requests BEGIN DELETE FROM requests; END"
    )
    with running_plant(sqlite_place, {"control": "registry.submit.after_commit=kill@2"}) as plant:
        calls = run(plant.ports["control"], seed=1, steps=0)
        assert plant.killed == ["control"]
    complaints = _complaints(sqlite_place, registry, calls)
    assert any("is there and nobody was told" in it for it in complaints), complaints


def test_a_server_that_answers_before_it_commits_is_found(sqlite_place: Installation) -> None:
    registry = SqlRegistry(sqlite_place.url)
    make_book(registry)
    with running_plant(sqlite_place, {}, {"control": acknowledge_rollbacks_too_early}) as plant:
        calls = run(plant.ports["control"], seed=1, steps=0)
        plant.wait_killed()
    complaints = _complaints(sqlite_place, registry, calls)
    assert any("was acknowledged and is not there" in it for it in complaints), complaints


def _complaints(place: Installation, registry: SqlRegistry, calls: list[Call]) -> list[str]:
    complaints = Evidence(calls, registry, BOOK, place.artifacts, [place.journal("r1")]).check()
    registry.close()
    return complaints
