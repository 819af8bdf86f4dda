"""Random histories of one codebook: the registry is, after each step, what a model of sets says."""

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from horen_vllm.errors import FailedPrecondition
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.models import Claim, EditSpec, EditState, Publication
from horen_vllm.registry.ports import Registry

from .conftest import PARAMETERS, ManualClock
from .sets import ModelBook, ModelClaim, ModelEdit

EXAMPLES = {"memory": 200, "sqlite": 15, "postgres": 8}
LEASE_S = 30.0
NUMBERS = st.integers(0, 30)
Batch = list[tuple[Claim, ModelClaim]]


class History(RuleBasedStateMachine):
    """One codebook of a registry, and its model."""

    def __init__(self, registry: Registry, clock: ManualClock) -> None:
        super().__init__()
        self.registry, self.clock = registry, clock
        self.fingerprint = str(uuid4())
        self.book = CodebookName(TenantId("acme"), f"book-{self.fingerprint}")
        registry.create_codebook(self.book, model="m", fingerprint=self.fingerprint, site="s", parameters=PARAMETERS)
        self.model = ModelBook(clock)
        self.batches: list[Batch] = []

    @rule(ttl_s=st.sampled_from([None, None, 20.0, 100.0]))
    def submit(self, ttl_s: float | None) -> None:
        number = len(self.model.edits)
        made = self.registry.submit(self.book, EditSpec(prompt=f"p{number}", target="t"), ttl_s=ttl_s)
        assert made.sequence == number + 1
        expires_at = None if ttl_s is None else self.clock() + timedelta(seconds=ttl_s)
        self.model.edits.append(ModelEdit(made.edit_id, expires_at))

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        worker = f"w{len(self.batches)}"
        claims = self.registry.claim(worker, lease_s=LEASE_S, fingerprint=self.fingerprint, limit=limit)
        expected = self.model.claim(worker, limit, LEASE_S)
        assert [(it.edit.edit_id, it.attempt) for it in claims] == [(it.edit.edit_id, it.attempt) for it in expected]
        self.batches.append(list(zip(claims, expected, strict=True)))

    @rule(count=st.integers(1, 3), end=st.sampled_from(["publish", "publish", "finish_same"]), number=NUMBERS)
    def make(self, count: int, end: str, number: int) -> None:
        """Do in one step what most edits go through: random steps rarely come in this order."""
        for _ in range(count):
            self.submit(None)
        self.claim(count)
        if self.batches[-1] and end == "publish":
            self.publish(0, count, frozenset())
        elif self.batches[-1]:
            self.finish_same(0, 0, number, active=True)

    @precondition(lambda self: any(self.batches))
    @rule(which=NUMBERS, count=st.integers(1, 4), superseded=st.frozensets(NUMBERS, max_size=2))
    def publish(self, which: int, count: int, superseded: frozenset[int]) -> None:
        batch = self._batch(which)[:count]
        names = {self._edit(number).edit_id for number in superseded}
        base = len(self.model.revisions)
        publications = [
            Publication(artifact=f"{it:064x}", base_revision=base + it, supersedes=tuple(sorted(names)))
            for it in range(len(batch))
        ]
        call = [(claim, publication) for (claim, _), publication in zip(batch, publications, strict=True)]
        if not all(self.model.holds(it) for _, it in batch):
            self._refused(lambda: self.registry.publish(call), "claim_lost")
            return
        self.registry.publish(call)
        for _, it in batch:
            self.model.publish(it.edit, names)

    @precondition(lambda self: any(self.batches))
    @rule(which=NUMBERS, place=st.integers(0, 3), same_as=NUMBERS, active=st.booleans())
    def finish_same(self, which: int, place: int, same_as: int, *, active: bool) -> None:
        claim, it = self._claim(which, place)
        first = self._edit(same_as, active=active)
        if not self.model.holds(it):
            self._refused(lambda: self.registry.finish_same(claim, first.edit_id), "claim_lost")
        elif first.edit_id not in self.model.current:
            self._refused(lambda: self.registry.finish_same(claim, first.edit_id), "revision_moved")
        else:
            self.registry.finish_same(claim, first.edit_id)
            it.edit.state, it.edit.first = EditState.PUBLISHED, first.first or first.edit_id

    @precondition(lambda self: any(self.batches))
    @rule(which=NUMBERS, place=st.integers(0, 3))
    def fail(self, which: int, place: int) -> None:
        claim, it = self._claim(which, place)
        if self.model.holds(it):
            self.registry.fail(claim, "code", "reason")
            it.edit.state = EditState.FAILED
        else:
            self._refused(lambda: self.registry.fail(claim, "code", "reason"), "claim_lost")

    @precondition(lambda self: any(self.batches))
    @rule(which=NUMBERS)
    def extend(self, which: int) -> None:
        batch = self._batch(which)
        held = [it.edit for _, it in batch if self.model.holds(it)]
        extended = self.registry.extend([claim for claim, _ in batch], lease_s=LEASE_S)
        assert [it.edit.edit_id for it in extended] == [edit.edit_id for edit in held]
        for edit in held:
            edit.lease_ends = self.clock() + timedelta(seconds=LEASE_S)

    @precondition(lambda self: any(self.batches))
    @rule(which=NUMBERS)
    def give_back(self, which: int) -> None:
        batch = self._batch(which)
        held = [it.edit for _, it in batch if self.model.holds(it)]
        self.registry.give_back([claim for claim, _ in batch])
        for edit in held:
            edit.attempt -= 1
            edit.state = EditState.COMMITTED

    @precondition(lambda self: self.model.edits)
    @rule(number=NUMBERS, active=st.booleans())
    def retire(self, number: int, *, active: bool) -> None:
        edit = self._edit(number, active=active)
        self.registry.retire_edit(edit.edit_id)
        if not edit.retired:
            self.model.retire(edit)

    @rule(number=NUMBERS)
    def roll_back(self, number: int) -> None:
        to = 1 + number % len(self.model.revisions)
        made = self.registry.rollback(self.book, to)
        assert made.number == len(self.model.revisions) + 1
        self.model.roll_back(to)

    @rule(seconds=st.sampled_from([1.0, 15.0, LEASE_S]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def retire_expired(self) -> None:
        self.registry.retire_expired()
        self.model.retire_expired()

    @invariant()
    def revisions_are_numbered_without_a_gap(self) -> None:
        revisions = self.registry.list_revisions(self.book)
        assert [it.number for it in revisions] == list(range(1, len(self.model.revisions) + 1))
        assert [it.entry_count for it in revisions] == [len(it) for it in self.model.revisions]
        times = [it.created_at for it in revisions]
        assert times == sorted(times)

    @invariant()
    def every_revision_has_its_entries(self) -> None:
        order = [edit.edit_id for edit in self.model.edits]
        for number, members in enumerate(self.model.revisions, start=1):
            entries = self.registry.entries(self.book, number)
            assert [it.edit_id for it in entries] == [edit_id for edit_id in order if edit_id in members]

    @invariant()
    def a_delta_leads_to_the_current_revision(self) -> None:
        for since, members in enumerate([frozenset[EditId](), *self.model.revisions]):
            delta = self.registry.delta(self.book, since)
            assert {it.edit_id for it in delta.added} == self.model.current - members
            assert set(delta.removed) == members - self.model.current

    @invariant()
    def edits_are_as_far_as_they_have_come(self) -> None:
        edits = self.registry.list_edits(self.book)
        current = self.model.current
        assert [(it.edit_id, it.state, it.attempt, it.retired_at is not None, it.active) for it in edits] == [
            (it.edit_id, it.state, it.attempt, it.retired, it.edit_id in current) for it in self.model.edits
        ]
        assert not [it for it in edits if it.active and it.retired_at is not None]

    def _edit(self, number: int, *, active: bool = False) -> ModelEdit:
        edits = [it for it in self.model.edits if it.edit_id in self.model.current] if active else []
        edits = edits or self.model.edits
        return edits[number % len(edits)]

    def _batch(self, which: int) -> Batch:
        """Return one of the latest batches: those before have mostly been dealt with."""
        batches = [batch for batch in self.batches if batch]
        return batches[-1 - which % min(len(batches), 4)]

    def _claim(self, which: int, place: int) -> tuple[Claim, ModelClaim]:
        batch = self._batch(which)
        return batch[place % len(batch)]

    def _refused(self, call: Callable[[], object], code: str) -> None:
        with pytest.raises(FailedPrecondition) as caught:
            call()
        assert caught.value.code == code


def test_a_registry_is_what_the_sets_say(store: str, registry: Registry, clock: ManualClock) -> None:
    class OfThisRegistry(History):
        def __init__(self) -> None:
            super().__init__(registry, clock)

    run_state_machine_as_test(
        OfThisRegistry,
        settings=settings(
            max_examples=EXAMPLES[store],
            stateful_step_count=30,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
