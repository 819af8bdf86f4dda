"""A random but seeded history of calls, and what came of each: every call is repeated until it is answered."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from horen_vllm.control.client import HorenClient
from horen_vllm.control.messages import EditProgress, EditView
from horen_vllm.errors import Unavailable
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import EditSpec
from tests.faults.parts import REFUSED, threshold_for

PROMPTS: Final = tuple(f"who leads {place}?" for place in ("Rome", "Oslo", "Lima", "Bern"))
TARGETS: Final = ("Ada", "Bo", "Cy")
GIVE_UP_S: Final = 30.0


class Op(StrEnum):
    """What was asked for."""

    SUBMIT = "submit"
    ROLLBACK = "rollback"
    RETIRE = "retire"
    SERVING = "serving"
    """Waiting until a revision is served."""
    EDIT = "edit"
    """Waiting until an edit has come to its end."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was answered."""

    op: Op
    asked_at: float
    """Monotonic seconds, of the first try."""
    answered_at: float
    answer: Any
    request_id: str | None = None
    asked: Any = None
    """The spec, the revision or the edit that the call was about."""


@dataclass
class Driver:
    """One user of one codebook.

    Parameters
    ----------
    client
        Where the calls go.
    codebook
        What they are about.
    seed
        Decides on all of them.
    ops
        What is asked for, the same one several times to have it more often.
    """

    client: HorenClient
    codebook: CodebookName
    seed: int
    ops: tuple[Op, ...]
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def run(self, steps: int) -> list[Call]:
        """Make one call of each kind, then `steps` random ones; return all calls when all is done and served."""
        first = self._submit(PROMPTS[0], TARGETS[0])
        self._follow(first)
        for prompt, target in ((PROMPTS[0], TARGETS[0]), (PROMPTS[1], REFUSED), (PROMPTS[2], TARGETS[1])):
            self._follow(self._submit(prompt, target))
        self._retire(first)
        self._retire(self.edits()[-1])
        self._wait_threshold()
        self._wait_serving()
        self._rollback(2)
        return self.run_random(steps)

    def run_random(self, steps: int) -> list[Call]:
        """Submit an edit, then make `steps` random calls; wait until all is done and served; return all calls."""
        self._submit(PROMPTS[0], TARGETS[0])
        for _ in range(steps):
            self._step(self._random.choice(self.ops))
        for view in self.edits():
            self._follow(view)
        self._wait_serving()
        return self.calls

    def edits(self) -> list[EditView]:
        """Return the edits that were acknowledged."""
        return [call.answer for call in self.calls if call.op is Op.SUBMIT]

    def _step(self, op: Op) -> None:
        edits = self.edits()
        if op is Op.SUBMIT:
            self._submit(self._random.choice(PROMPTS), self._random.choice((*TARGETS, REFUSED)))
        elif op is Op.ROLLBACK:
            self._rollback(self._random.randint(1, self._revision()))
        elif op is Op.RETIRE:
            self._retire(self._random.choice(edits))
        elif op is Op.EDIT:
            self._follow(self._random.choice(edits))
        else:
            self._wait_serving()

    def _submit(self, prompt: str, target: str) -> EditView:
        spec = EditSpec(prompt=prompt, target=target)
        view: EditView = self._change(
            Op.SUBMIT, spec, lambda key: self.client.submit_edit(self.codebook, spec, request_id=key)
        )
        return view

    def _rollback(self, to: int) -> None:
        self._change(Op.ROLLBACK, to, lambda key: self.client.rollback(self.codebook, to, request_id=key))

    def _retire(self, edit: EditView) -> None:
        self._change(Op.RETIRE, edit, lambda key: self.client.retire_edit(edit, request_id=key))

    def _change(self, op: Op, asked: Any, call: Callable[[str], Any]) -> Any:
        key = f"{self.seed}-{len(self.calls)}"
        # Some are asked for again although they were answered: the answer may be lost behind our back, too.
        for _ in range(self._random.choice((1, 1, 2))):
            self._note(op, lambda: call(key), request_id=key, asked=asked)
        return self.calls[-1].answer

    def _revision(self) -> int:
        revision: int = answered(lambda: self.client.get_codebook(self.codebook)).revision
        return revision

    def _follow(self, edit: EditView) -> None:
        self._note(Op.EDIT, lambda: self.client.wait_edit(edit, until=EditProgress.PUBLISHED, timeout_s=5), asked=edit)

    def _wait_serving(self) -> None:
        current = self._revision()
        self._note(Op.SERVING, lambda: self.client.wait_serving(self.codebook, current, timeout_s=5), asked=current)

    def _wait_threshold(self) -> None:
        """Wait until a worker has set the threshold that the entries call for."""
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            view = answered(lambda: self.client.get_codebook(self.codebook))
            if view.parameters.threshold == threshold_for(view.entry_count):
                return
            time.sleep(0.02)
        raise AssertionError("nobody sets the threshold")

    def _note(self, op: Op, call: Callable[[], Any], **about: Any) -> None:
        asked_at = time.monotonic()
        answer = answered(call)
        self.calls.append(Call(op, asked_at, time.monotonic(), answer, **about))


def answered(call: Callable[[], Any]) -> Any:
    """Return the answer of `call`, however often it has to be asked for: at worst, a fault is that nobody answers."""
    deadline = time.monotonic() + GIVE_UP_S
    while True:
        try:
            return call()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
