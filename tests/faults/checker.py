"""What must be true of a history of acknowledged calls, of the registry after it, and of what servers did meanwhile."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from horen_vllm.artifact import decode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.control.messages import EditProgress
from horen_vllm.errors import HorenError
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import EditRecord, EditState, RevisionKind, RevisionRecord
from horen_vllm.registry.ports import Registry
from tests.faults.history import Call, Op
from tests.faults.parts import threshold_for


@dataclass(frozen=True)
class Evidence:
    """A history, and all that is left of it."""

    calls: Sequence[Call]
    registry: Registry
    codebook: CodebookName
    artifacts: Path
    journals: Sequence[Path] = ()
    lease_s: float = 30.0
    """How long a replica answers for codebooks after the heartbeat that was confirmed last."""

    def check(self) -> list[str]:
        """Return what is wrong, one sentence each."""
        return [*RegistryState(self).complaints(), *_Answers(self).complaints(), *_serving(self)]


class RegistryState:
    """The registry against itself: revisions, entries, artifacts."""

    def __init__(self, evidence: Evidence) -> None:
        registry, name = evidence.registry, evidence.codebook
        self.codebook = registry.get_codebook(name)
        self.revisions = list(registry.list_revisions(name, limit=100_000))
        self.edits = {it.edit_id: it for it in registry.list_edits(name, limit=100_000)}
        self.refs = {it.number: tuple(registry.entries(name, it.number)) for it in self.revisions}
        self.entries = {number: frozenset(ref.edit_id for ref in refs) for number, refs in self.refs.items()}
        self._artifacts = ArtifactFolder(evidence.artifacts)

    def complaints(self) -> Iterator[str]:
        numbers = [it.number for it in self.revisions]
        if numbers != list(range(1, self.codebook.revision + 1)):
            yield f"revisions are not gapless: {numbers}, the codebook is at {self.codebook.revision}"
            return
        for before, revision in pairwise(self.revisions):
            yield from self._explained(before, revision)
        published = Counter(it.edit_id for it in self.revisions if it.kind is RevisionKind.PUBLISH)
        yield from (f"edit {edit} was published {times} times" for edit, times in published.items() if times > 1)
        for edit in self.edits.values():
            yield from self._consistent(edit)
        for digest, edit_id in {(ref.artifact, ref.edit_id) for refs in self.refs.values() for ref in refs}:
            yield from self._readable(digest, edit_id)

    def _explained(self, before: RevisionRecord, revision: RevisionRecord) -> Iterator[str]:
        old, new = self.entries[before.number], self.entries[revision.number]
        if len(new) != revision.entry_count:
            yield f"revision {revision.number} says {revision.entry_count} entries and has {len(new)}"
        computed = revision.kind in {RevisionKind.PUBLISH, RevisionKind.THRESHOLD}
        if computed and revision.threshold != threshold_for(revision.entry_count):
            yield f"revision {revision.number} has the threshold {revision.threshold}"
        match revision.kind:
            case RevisionKind.PUBLISH:
                assert revision.edit_id is not None
                expected = (old - set(self.edits[revision.edit_id].supersedes)) | {revision.edit_id}
            case RevisionKind.RETIRE:
                assert revision.edit_id is not None
                # Its entry may have become that of an edit that said the same.
                first = self.edits[revision.edit_id].same_as or revision.edit_id
                heirs = {edit for edit in new - old if self.edits[edit].same_as == first}
                expected = (old - {revision.edit_id}) | set(sorted(heirs)[:1])
            case RevisionKind.ROLLBACK:
                assert revision.restored is not None
                expected = self.entries[revision.restored]
            case RevisionKind.THRESHOLD:
                expected = old
            case RevisionKind.IMPORT:
                # What a file has is not known here; that its entries are told and readable is checked all the same.
                expected = new
            case _:
                yield f"revision {revision.number} is a {revision.kind}"
                return
        if new != expected:
            yield f"revision {revision.number} ({revision.kind}) has {sorted(new)}, expected {sorted(expected)}"

    def _consistent(self, edit: EditRecord) -> Iterator[str]:
        ever = [number for number, entries in self.entries.items() if edit.edit_id in entries]
        if edit.active != (edit.edit_id in self.entries[self.codebook.revision]):
            yield f"edit {edit.edit_id} says active={edit.active}, which the entries deny"
        if edit.active and edit.retired_at is not None:
            yield f"edit {edit.edit_id} is retired and serving"
        if edit.state is EditState.PUBLISHED and edit.same_as is None and edit.published_revision not in ever:
            yield f"edit {edit.edit_id} is published at {edit.published_revision}, which lacks it"
        if edit.state is not EditState.PUBLISHED and ever:
            yield f"edit {edit.edit_id} is {edit.state} and in revisions {ever}"

    def _readable(self, digest: str, edit_id: EditId) -> Iterator[str]:
        try:
            manifest = decode_entry(self._artifacts.read(digest)).manifest
        except HorenError as error:
            yield f"the artifact of edit {edit_id} is not readable: {error.code}"
            return
        if manifest.edit_id not in {edit_id, self.edits[edit_id].same_as}:
            yield f"the artifact of edit {edit_id} is that of {manifest.edit_id}"


class _Answers:
    """What clients were told against the registry."""

    def __init__(self, evidence: Evidence) -> None:
        self._calls = evidence.calls
        self._registry = RegistryState(evidence)

    def complaints(self) -> Iterator[str]:
        yield from self._exactly_once(Op.SUBMIT, lambda answer: answer.edit_id, set(self._registry.edits))
        rollbacks = {it.number: it for it in self._registry.revisions if it.kind is RevisionKind.ROLLBACK}
        yield from self._exactly_once(Op.ROLLBACK, lambda answer: answer.number, set(rollbacks))
        for call in self._of(Op.SUBMIT):
            stored = self._registry.edits.get(call.answer.edit_id)
            if stored is not None and stored.spec != call.asked:
                yield f"edit {stored.edit_id} is not what was submitted"
        for call in self._of(Op.ROLLBACK):
            stored_rollback = rollbacks.get(call.answer.number)
            if stored_rollback is not None and stored_rollback.restored != call.asked:
                yield f"revision {call.answer.number} restored {stored_rollback.restored}, not {call.asked}"
        for call in self._of(Op.RETIRE):
            yield from self._retired(call)
        for call in self._of(Op.EDIT):
            yield from self._kept(call)
        yield from self._monotone()

    def _of(self, op: Op) -> list[Call]:
        return [call for call in self._calls if call.op is op]

    def _exactly_once(self, op: Op, made: Any, stored: set[Any]) -> Iterator[str]:
        answers: dict[str, set[Any]] = defaultdict(set)
        for call in self._of(op):
            assert call.request_id is not None
            answers[call.request_id].add(made(call.answer))
        for request_id, things in answers.items():
            if len(things) > 1:
                yield f"{op} {request_id} was answered with {sorted(things)}"
        told = [thing for things in answers.values() for thing in things]
        for thing, times in Counter(told).items():
            if times > 1:
                yield f"{op}: {thing} answers {times} request ids"
        yield from (f"{op}: {lost} was acknowledged and is not there" for lost in sorted(set(told) - stored))
        yield from (f"{op}: {more} is there and nobody was told" for more in sorted(stored - set(told)))

    def _retired(self, call: Call) -> Iterator[str]:
        edit = self._registry.edits.get(call.asked.edit_id)
        # A rollback that was asked for before the retirement was answered may have come after it.
        rolled_back = any(it.answered_at > call.asked_at for it in self._of(Op.ROLLBACK))
        if edit is not None and not rolled_back and (edit.active or edit.retired_at is None):
            yield f"edit {edit.edit_id} was retired, and is active={edit.active}, retired at {edit.retired_at}"

    def _kept(self, call: Call) -> Iterator[str]:
        edit = self._registry.edits.get(call.answer.edit_id)
        if edit is None:
            yield f"edit {call.answer.edit_id} was seen and is gone"
        elif call.answer.state is EditProgress.FAILED and edit.state is not EditState.FAILED:
            yield f"edit {edit.edit_id} was seen failed and is {edit.state}"
        elif edit.same_as is None and call.answer.published_revision not in {None, edit.published_revision}:
            yield f"edit {edit.edit_id} was seen published at {call.answer.published_revision}"

    def _monotone(self) -> Iterator[str]:
        firsts: dict[str | None, Call] = {}
        for call in self._of(Op.ROLLBACK):
            firsts.setdefault(call.request_id, call)
        for earlier in firsts.values():
            for later in firsts.values():
                if earlier.answered_at < later.asked_at and earlier.answer.number >= later.answer.number:
                    yield f"rollback {later.answer.number} was asked for after {earlier.answer.number} was answered"


def _serving(evidence: Evidence) -> Iterator[str]:
    entries, name = RegistryState(evidence).entries, str(evidence.codebook)
    served = [call for call in evidence.calls if call.op is Op.SERVING]
    journals = {path.stem: _lines(path) for path in evidence.journals}
    for replica, lines in journals.items():
        for line in lines:
            if line.get("flip") == name and frozenset(line["entries"]) != entries.get(line["revision"]):
                yield f"{replica} served {line['entries']} as revision {line['revision']}"
        for call in served:
            yield from (f"{replica} {what}" for what in _outdated(call, lines, name, evidence.lease_s))
    for call in served:
        having = sum(_had(lines, name, call.answer.revision, call.answered_at) for lines in journals.values())
        if journals and having < call.answer.replicas_total:
            total = call.answer.replicas_total
            yield f"revision {call.answer.revision} was said to be served by {total} and {having} had it"


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _had(lines: Sequence[dict[str, Any]], name: str, revision: int, at: float) -> bool:
    return any(it.get("flip") == name and it["revision"] >= revision and it["at"] <= at for it in lines)


def _outdated(call: Call, lines: Sequence[dict[str, Any]], name: str, lease_s: float) -> Iterator[str]:
    revision = call.answer.revision
    # What a state says holds until the next line of a state or of a new life, and no longer than the lease.
    states = [it for it in lines if "flip" not in it]
    for state, following in [*pairwise(states), *((it, None) for it in states[-1:])]:
        until = inf if following is None else following["at"]
        until = min(until, (state.get("confirmed_at") or -inf) + lease_s)
        applied, owed = state.get("books", {}).get(name, (revision, 0))
        if until > call.answered_at and owed <= applied < revision:
            yield f"answered with revision {applied} after {revision} was said to be served"
