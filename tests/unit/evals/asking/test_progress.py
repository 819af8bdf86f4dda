"""The progress bar shows what there is to do, how far it is and how fast."""

import io
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
