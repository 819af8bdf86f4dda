"""What the demo does, step by step, over the public surfaces only: gRPC for edits, HTTP for answers."""

import time
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.progress import track

from horen_vllm.cli.demo_choice import Choice, choose
from horen_vllm.cli.stack import Stack
from horen_vllm.control.client import EditProgress, EditView, HorenClient
from horen_vllm.core.presets import CALIBRATED
from horen_vllm.evals.endpoint import Answer, Endpoint
from horen_vllm.registry.models import EditSpec

CODEBOOK = "demo"
SERVE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question at the three stages: clean, edited, rolled back."""

    before: Answer
    after: Answer
    restored: Answer

    @property
    def untouched(self) -> bool:
        """Whether the answer kept its tokens unless an edit fired."""
        return self.after.fired or self.after.token_ids == self.before.token_ids

    @property
    def undone(self) -> bool:
        """Whether rollback brought the first answer back."""
        return not self.restored.fired and self.restored.token_ids == self.before.token_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRow:
    """One edited fact with what was asked about it and beside it."""

    choice: Choice
    edited: Asked
    paraphrase: Asked
    unrelated: Asked
    failure: str | None
    seconds: float
    """From the call of SubmitEdit to the first answer that the edit gave."""

    @property
    def reached(self) -> bool:
        """Whether the edited question answers its target."""
        return self.edited.after.text == self.choice.target

    @property
    def asked(self) -> tuple[Asked, ...]:
        """All three questions."""
        return self.edited, self.paraphrase, self.unrelated

    @property
    def holds(self) -> bool:
        """Whether the edit answers, silence changed nothing, and rollback restored everything."""
        return self.reached and all(one.untouched and one.undone for one in self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """All rows and what the run was measured with."""

    rows: tuple[DemoRow, ...]
    preset: str
    threshold: float
    """c of the last revision with all edits, for entries without a subject."""
    anchored_threshold: float
    """c of entries with a subject."""

    @property
    def passed(self) -> bool:
        """Whether every edit holds, every silent request is unchanged, and rollback restores everything."""
        return all(row.holds for row in self.rows)

    @property
    def median_seconds(self) -> float:
        """Median time from submission to the first edited answer, in seconds."""
        return median(row.seconds for row in self.rows)


class DemoRun:
    """Edits `edits` facts of the demo world on a running stack and rolls them back.

    Parameters
    ----------
    stack
        A started stack that serves the demo model.
    edits, seed
        How many facts, and which.
    console
        Where progress is shown.
    """

    def __init__(self, stack: Stack, *, edits: int, seed: int, console: Console) -> None:
        self._endpoint = Endpoint(stack.base_url)
        self._client = HorenClient(stack.control_address)
        self._clean = stack.model_name
        self._edited = f"{stack.model_name}@{CODEBOOK}"
        self._choices = choose(edits, seed)
        self._console = console

    def run(self) -> DemoReport:
        """Run the demo; raises the HorenError of whatever part fails."""
        book = self._client.create_codebook(CODEBOOK, preset=CALIBRATED)
        self._client.wait_serving(CODEBOOK, book.revision, timeout_s=SERVE_TIMEOUT_S)
        before = self._ask(self._clean)
        edits = [
            self._edit(choice)
            for choice in track(self._choices, description="editing", console=self._console, transient=True)
        ]
        after = self._ask(self._edited)
        parameters = self._client.get_codebook(CODEBOOK).parameters
        made = self._client.rollback(CODEBOOK, book.revision)
        self._client.wait_serving(CODEBOOK, made.number, timeout_s=SERVE_TIMEOUT_S)
        stages = zip(before, after, self._ask(self._edited), strict=True)
        asked = [Asked(before=first, after=second, restored=third) for first, second, third in stages]
        count = len(self._choices)
        rows = (
            DemoRow(
                choice=choice,
                edited=asked[index],
                paraphrase=asked[count + index],
                unrelated=asked[2 * count + index],
                failure=edits[index][0].reason,
                seconds=edits[index][1],
            )
            for index, choice in enumerate(self._choices)
        )
        return DemoReport(
            rows=tuple(rows),
            preset=parameters.preset,
            threshold=parameters.threshold,
            anchored_threshold=parameters.anchored_threshold,
        )

    def _ask(self, model: str) -> list[Answer]:
        """Return the answers to all edited questions, then all paraphrases, then all unrelated questions."""
        prompts = [
            *(choice.prompt for choice in self._choices),
            *(choice.paraphrase for choice in self._choices),
            *(choice.unrelated for choice in self._choices),
        ]
        return self._endpoint.ask_all(model, prompts)

    def _edit(self, choice: Choice) -> tuple[EditView, float]:
        started = time.perf_counter()
        spec = EditSpec(prompt=choice.prompt, target=choice.target, subject=choice.subject)
        edit = self._client.submit_edit(CODEBOOK, spec)
        edit = self._client.wait_edit(edit, until=EditProgress.SERVING, timeout_s=SERVE_TIMEOUT_S)
        if edit.state is EditProgress.SERVING:
            self._endpoint.ask(self._edited, choice.prompt)
        return edit, time.perf_counter() - started
