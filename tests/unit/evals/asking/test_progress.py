"""The progress bar shows what there is to do, how far it is and how fast."""

import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from horen_vllm.evals.asking.progress import AskingBar, Unit
from horen_vllm.evals.asking.running import answer_all
from horen_vllm.evals.asking.store import RecordStore
from tests.unit.evals.asking.test_running import QUESTIONS, Echo, scored


def test_a_run_is_shown_with_count_and_rate(tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    with RecordStore(tmp_path / "r.jsonl") as store, AskingBar(console) as bar:
        bar.part("cosine, 10 edits", Unit.QUESTIONS)
        answer_all(Echo(), QUESTIONS[:20], store, scored, watcher=bar)
        bar.part("cosine, 100 [bold]edits", Unit.QUESTIONS)
        answer_all(Echo(), QUESTIONS, store, scored, watcher=bar)
    text = shown.getvalue()
    assert "cosine, 100 [bold]edits" in text
    assert "60/60" in text
    assert "/s" in text


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(bar_on: Callable[[AskingBar, Clock], None]) -> list[str]:
    shown, clock = io.StringIO(), Clock()
    with AskingBar(Console(file=shown, force_terminal=False, width=40), clock=clock) as bar:
        bar_on(bar, clock)
    return shown.getvalue().splitlines()


def test_without_a_terminal_a_line_is_printed_each_minute_and_at_the_end() -> None:
    def ask(bar: AskingBar, clock: Clock) -> None:
        bar.part("cosine: questions after 1000 edits", Unit.QUESTIONS)
        bar.begin(2000, 500)
        for _ in range(150):
            clock.now += 1.0
            bar.advance()

    assert lines(ask) == [
        "cosine: questions after 1000 edits: 560/2,000, 1.0/s, 0:24:00 left",
        "cosine: questions after 1000 edits: 620/2,000, 1.0/s, 0:23:00 left",
        "cosine: questions after 1000 edits: 650/2,000, 1.0/s, 0:22:30 left",
    ]


def test_the_whole_run_is_shown_with_the_time_that_its_questions_and_edits_take() -> None:
    def go(bar: AskingBar, clock: Clock) -> None:
        bar.whole(Unit.QUESTIONS, 1000, 100)
        bar.whole(Unit.EDITS, 50, 0)
        for title, unit, number, seconds in (("ask", Unit.QUESTIONS, 100, 0.6), ("submit", Unit.EDITS, 10, 6.0)):
            bar.part(title, unit)
            bar.begin(number, 0)
            for _ in range(number):
                clock.now += seconds
                bar.advance()

    first, second = (line.partition("the whole run: ")[2] for line in lines(go)[:2])
    assert first == "200/1,000 questions, 0/50 edits, - left"
    # 800 questions of 0.6 s and 40 edits of 6 s.
    assert second == "200/1,000 questions, 10/50 edits, 0:12:00 left"


def test_nothing_is_printed_for_what_has_not_moved() -> None:
    assert lines(lambda bar, _clock: bar.begin(10, 10)) == []
