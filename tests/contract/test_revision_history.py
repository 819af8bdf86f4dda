"""Every revision of a random history, against a plain list of sets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import EditRecord
from horen_vllm.registry.ports import Registry

from .conftest import PARAMETERS

Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]
History = list[tuple[frozenset[EditId], float]]
"""The entries and the threshold of revision 0 (nothing), 1, 2, ..."""


@dataclass(frozen=True)
class Publishing:
    """Publish an edit that supersedes some of those before it, active or not, with a new threshold or without."""

    superseded: frozenset[int]
    threshold: float | None


@dataclass(frozen=True)
class Rollback:
    """Go back to some revision."""

    to: int


NUMBERS = st.integers(min_value=0, max_value=15)
THRESHOLDS = st.none() | st.floats(min_value=-1.0, max_value=1.0)
PUBLISHING = st.builds(Publishing, st.frozensets(NUMBERS, max_size=3), THRESHOLDS)
STEPS = st.lists(st.one_of(PUBLISHING, PUBLISHING, st.builds(Rollback, NUMBERS)), max_size=12)


def play(
    registry: Registry, publish: Publish, book: CodebookName, steps: list[Publishing | Rollback]
) -> tuple[History, list[EditId]]:
    """Run the steps; return what each revision must contain, and the edits by sequence."""
    history: History = [(frozenset(), PARAMETERS.threshold)] * 2
    edits: list[EditId] = []
    for step in steps:
        if isinstance(step, Rollback):
            to = 1 + step.to % (len(history) - 1)
            registry.rollback(book, to)
            history.append(history[to])
        else:
            superseded = tuple(edits[number] for number in sorted(step.superseded) if number < len(edits))
            edits.append(publish(book, supersedes=superseded, threshold=step.threshold).edit_id)
            entries, threshold = history[-1]
            threshold = threshold if step.threshold is None else step.threshold
            history.append(((entries - frozenset(superseded)) | {edits[-1]}, threshold))
    return history, edits


def ordered(entries: frozenset[EditId], edits: list[EditId]) -> list[EditId]:
    return [edit for edit in edits if edit in entries]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_revisions_never_change_and_deltas_lead_to_the_current_one(
    registry: Registry,
    create: Create,
    publish: Publish,
    steps: list[Publishing | Rollback],
) -> None:
    # All examples share one registry; each has a codebook of its own.
    unique = str(uuid4())
    book = create(f"book-{unique}", fingerprint=unique)
    history, edits = play(registry, publish, book, steps)
    current, threshold = history[-1]
    codebook = registry.get_codebook(book)
    assert (codebook.revision, codebook.entry_count) == (len(history) - 1, len(current))
    assert codebook.parameters == replace(PARAMETERS, threshold=threshold)
    listed = [(revision.entry_count, revision.threshold) for revision in registry.list_revisions(book)]
    assert listed == [(len(entries), threshold) for entries, threshold in history[1:]]
    assert [edit.edit_id for edit in registry.list_edits(book) if edit.active] == ordered(current, edits)
    for number, (entries, _) in enumerate(history):
        if number > 0:
            assert [e.edit_id for e in registry.entries(book, number)] == ordered(entries, edits)
        delta = registry.delta(book, number)
        assert delta.codebook == codebook
        assert [entry.edit_id for entry in delta.added] == ordered(current - entries, edits)
        assert list(delta.removed) == ordered(entries - current, edits)
