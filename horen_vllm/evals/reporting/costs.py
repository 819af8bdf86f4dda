"""What a run took: time of answers, time of edits, memory, and the edits that failed."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from horen_vllm.evals.records import Protocol, Record
from horen_vllm.evals.reporting.run_info import LOOK_UP, ArmInfo, RunInfo, resumed_note
from horen_vllm.evals.reporting.run_records import Run
from horen_vllm.evals.reporting.summary_parts import Editing, Growth, Latency, Spread


def latency(run: Run) -> Iterator[Latency]:
    """Yield the time of answers, of every arm and protocol."""
    found: dict[tuple[str, Protocol], dict[str, Record]] = defaultdict(dict)
    for key, records in run.groups.items():
        # The base model's answers stand at several checkpoints, and count once.
        found[key.arm, key.protocol] |= {record.question.question_id: record for record in records}
    for (arm, protocol), once in found.items():
        answers = [record.answer for record in once.values()]
        yield Latency(
            arm=arm,
            protocol=protocol,
            seconds=spread([answer.seconds for answer in answers]),
            tokens=float(np.mean([len(answer.token_ids) for answer in answers])),
            lookup_seconds=_lookup(run.info, arm),
        )


def editing(info: RunInfo) -> Iterator[Editing]:
    """Yield what became of the edits of each arm with a codebook."""
    for arm in info.arms:
        if not arm.edits and not arm.states:
            continue
        seconds = [edit.seconds for edit in arm.edits if edit.seconds is not None]
        failures = Counter(edit.failure for edit in arm.edits if edit.failure is not None)
        yield Editing(
            arm=arm.name,
            submitted=len(arm.edits),
            served=len(arm.edits) - failures.total(),
            failures=dict(failures.most_common()),
            seconds=spread(seconds) if seconds else None,
            growth=tuple(_growth(arm, info.notes)),
        )


def spread(seconds: Sequence[float]) -> Spread:
    """Return mean, median, 99th percentile and maximum of at least one time."""
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return Spread(count=len(seconds), mean=float(np.mean(seconds)), p50=float(p50), p99=float(p99), most=max(seconds))


def _lookup(info: RunInfo, arm: str) -> float | None:
    parts = [part for part in info.times if part.name == LOOK_UP and part.arm == arm]
    count = sum(part.count for part in parts)
    return sum(part.seconds for part in parts) / count if count else None


def _growth(arm: ArmInfo, notes: Sequence[str]) -> Iterator[Growth]:
    radius = _number(arm, "radius")
    # Runs of before states told it have it among the parameters, where it counts for nothing without anchors.
    anchored = _number(arm, "anchored_threshold") if arm.parameters.get("anchors") and radius is None else None
    before = 0
    for state in sorted(arm.states, key=lambda state: state.checkpoint):
        submitted, before = state.checkpoint - before, state.checkpoint
        told = resumed_note(arm.name, state.checkpoint)
        # Of edits that two starts submitted only the second start's share was measured.
        whole = not state.resumed and not any(note.startswith(told) for note in notes)
        seconds = state.submit_seconds if whole else None
        yield Growth(
            checkpoint=state.checkpoint,
            entries=state.entries,
            threshold=state.threshold if radius is None else None,
            anchored_threshold=anchored if state.anchored_threshold is None else state.anchored_threshold,
            radius=radius,
            memory_bytes=state.memory_bytes,
            submitted=submitted,
            seconds=seconds,
            seconds_per_edit=seconds / submitted if submitted and seconds is not None else None,
        )


def _number(arm: ArmInfo, name: str) -> float | None:
    value = arm.parameters.get(name)
    return float(value) if isinstance(value, int | float) else None
