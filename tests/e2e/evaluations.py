"""``horen eval`` as a process of its own, on a file of the demo world."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from horen_vllm.cli.demo_choice import Choice

TIMEOUT_S = 110.0
_HOREN = (sys.executable, "-m", "horen_vllm.cli.app", "eval")


def write_edits(path: Path, choices: Sequence[Choice]) -> Path:
    """Write facts of the demo world as a file of edits."""
    rows = (
        {
            "id": f"fact-{choice.fact_id}",
            "subject": choice.subject,
            "prompt": choice.prompt,
            "target": choice.target,
            "rephrase": choice.paraphrase,
            "locality_prompt": choice.unrelated,
        }
        for choice in choices
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``horen eval`` to its end."""
    return subprocess.run(
        [*_HOREN, *map(str, arguments)],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def evaluate_until(records: Path, count: int, *arguments: object) -> None:
    """Run ``horen eval``, and kill it as soon as there are `count` records; fail if it ends before."""
    with subprocess.Popen(
        [*_HOREN, *map(str, arguments)], env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            if records.exists() and records.read_bytes().count(b"\n") >= count:
                break
            time.sleep(0.02)
        ended = process.poll()
        process.kill()
        said = process.stderr.read() if process.stderr else b""
    assert ended is None, f"it ended by itself, with status {ended}: {said.decode(errors='replace')[-2000:]}"


def ids_of(records: Path) -> list[str]:
    """Return the ids of the questions that were answered, as they stand in the file."""
    lines = records.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"]["question_id"] for line in lines]


def group(summary: dict[str, Any], arm: str, protocol: str, kind: str) -> dict[str, float]:
    """Return the metrics of a kind of question at the last checkpoint."""
    last = max(one["checkpoint"] for one in summary["groups"])
    [found] = [
        one
        for one in summary["groups"]
        if (one["arm"], one["checkpoint"], one["protocol"], one["kind"]) == (arm, last, protocol, kind)
    ]
    return {name: number["value"] for name, number in found["metrics"].items()}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HOREN_")}
