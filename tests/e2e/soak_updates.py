"""Publishes, retirements and rollbacks while the soak runs: staged at one step, flipped or given up at a later one."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import rpc
from tests.e2e.oracle import Span
from tests.e2e.soak_books import CODEBOOKS, Library, Move
from tests.e2e.soak_engine import SteppedEngine

CAPACITY = "capacity_exhausted"
DROP_SHARE = 0.06
RETRY_STEPS = 5


@dataclass
class Pending:
    """A move on its way into the engine."""

    move: Move
    staged: rpc.Staged
    due: int
    cancelled: bool


class Updates:
    """Keeps the engine's codebooks moving.

    Parameters
    ----------
    rate
        Probability of a new move before each engine step.
    """

    def __init__(self, engine: SteppedEngine, library: Library, folder: Path, seed: int, rate: float) -> None:
        self._engine, self._library, self._folder = engine, library, folder
        self._random = random.Random(seed)
        self._rate = rate
        self._pending: list[Pending] = []
        self._gone: dict[str, int] = {}
        self._sequence = int(rpc.call(engine.engine, "horen_status", {})["sequence"])
        self.counts: Counter[str] = Counter()

    def open(self) -> None:
        """Bring every codebook to its first revision."""
        for name in CODEBOOKS:
            self._begin(self._library.opening_move(name), delay=0)
        self._take_due()

    def tick(self, asked: Sequence[tuple[tuple[int, ...], Span]]) -> None:
        """Do what is due before the next engine step."""
        self._take_due()
        for name in [name for name, until in self._gone.items() if until <= self._engine.steps]:
            del self._gone[name]
            self._begin(self._library.reopening(name), delay=0)
        if self._random.random() < self._rate:
            move = self._library.next_move(asked)
            # One move of a codebook at a time: the next one starts from where it ends.
            if move.codebook not in self._engine.applied or any(
                p.move.codebook == move.codebook for p in self._pending
            ):
                return
            if self._random.random() < DROP_SHARE:
                self._drop(move.codebook)
                self._gone[move.codebook] = self._engine.steps + self._random.randrange(3, 10)
                self.counts["drops"] += 1
            else:
                self._begin(move, delay=self._random.randrange(8), cancelled=self._random.random() < 0.1)

    def close(self) -> None:
        """Give up what is still under way and drop every codebook."""
        for pending in self._pending:
            self._unstage(pending)
        for name in CODEBOOKS:
            self._drop(name)

    def _begin(self, move: Move, *, delay: int, cancelled: bool = False) -> None:
        staged = rpc.stage(
            self._engine.engine,
            move.codebook,
            move.book,
            self._folder,
            revision=move.revision,
            base_revision=move.base_revision,
            added=move.added,
            removed=move.removed,
            preset=move.preset,
        )
        self._pending.append(Pending(move, staged, self._engine.steps + delay, cancelled))

    def _drop(self, name: str) -> None:
        self._sequence += 1
        rpc.call(self._engine.engine, "horen_drop", {"codebook": name, "sequence": self._sequence})
        self._engine.applied.pop(name, None)

    def _take_due(self) -> None:
        due = [pending for pending in self._pending if pending.due <= self._engine.steps]
        self._pending = [pending for pending in self._pending if pending.due > self._engine.steps]
        for pending in due:
            self._take(pending)

    def _take(self, pending: Pending) -> None:
        if pending.cancelled:
            self._unstage(pending)
            self.counts["cancelled"] += 1
            return
        try:
            rpc.await_staged(self._engine.engine, pending.staged)
        except rpc.RefusedError as refusal:
            # Full buffers are a visible refusal, and the old revision serves on.
            if refusal.code != CAPACITY:
                raise
            self._unstage(pending)
            self.counts["refused_for_capacity"] += 1
            if pending.move.codebook not in self._engine.applied:
                self._gone[pending.move.codebook] = self._engine.steps + RETRY_STEPS
            return
        if self._random.random() < 0.05:
            self._expect_stale(pending)
        self._sequence += 1
        rpc.flip(self._engine.engine, pending.staged, self._sequence)
        self._library.applied(pending.move)
        self._engine.applied[pending.move.codebook] = pending.move.revision
        self._engine.flipped_at = self._engine.steps
        self.counts[pending.move.kind] += 1
        self.counts["flips"] += 1
        self.counts["flips_during_preemption"] += self._engine.preempted_now() > 0

    def _expect_stale(self, pending: Pending) -> None:
        with pytest.raises(rpc.RefusedError, match="stale_update"):
            rpc.flip(self._engine.engine, pending.staged, self._sequence)
        self.counts["stale_refused"] += 1

    def _unstage(self, pending: Pending) -> None:
        ticket = {"ticket": pending.staged.ticket}
        assert rpc.call(self._engine.engine, "horen_unstage", ticket) == ticket
