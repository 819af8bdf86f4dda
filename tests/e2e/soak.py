"""The soak: seeded mixed load on one engine, every response judged by the oracle at the revision it was admitted at.

``python -m tests.e2e.soak`` runs it in a process of its own; ``make soak`` is the long form.
"""

import argparse
import json
import os
import random
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import rpc
from tests.e2e.configurations import CONFIGURATIONS, Configuration
from tests.e2e.oracle import Oracle, Span
from tests.e2e.soak_books import CODEBOOKS, Library
from tests.e2e.soak_controls import controls
from tests.e2e.soak_engine import Sent, SteppedEngine
from tests.e2e.soak_load import Ask, Load
from tests.e2e.soak_updates import Updates
from tests.e2e.soak_verdict import Judge
from tests.e2e.tiny_model import make_tiny_model

IN_FLIGHT = 14
RECENT = 40
MOVE_RATE = 0.15
STORM_RATE = 0.01
STORM_RATE_AFTER_FLIP = 0.15
DRAIN_TIMEOUT_S = 10.0
STOP_TEXTS = (" you", "is", " to", "us", "o", "as")
BUDGETS = {"key_budget_mib": 1, "value_budget_mib": 1, "poison_freed": True}


@dataclass
class Soak:
    """Load, updates and judge around one engine."""

    engine: SteppedEngine
    load: Load
    updates: Updates
    judge: Judge
    seed: int

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._following: deque[Ask] = deque()
        self._recent: deque[tuple[tuple[int, ...], Span]] = deque(maxlen=RECENT)
        self.counts: Counter[str] = Counter()

    def run(self, requests: int) -> None:
        """Send `requests` requests, updating all the while, and judge every response."""
        self.updates.open()
        while self.engine.counts["sent"] < requests or self.engine.in_flight:
            while self.engine.counts["sent"] < requests and self.engine.in_flight < IN_FLIGHT:
                self._send()
            self.updates.tick(tuple(self._recent))
            self._hang_up()
            self._storm()
            for sent in self.engine.step():
                self._finish(sent)

    def end(self) -> None:
        """Drop every codebook under running requests, which keep what they were admitted with, and run them out."""
        last = [self.engine.send(self.load.opening()) for _ in range(8)]
        while self.engine.in_flight and any(c.admitted_at is None for sent in last for c in sent.choices):
            for sent in self.engine.step():
                self.judge.judge(sent)
        self.updates.close()
        while self.engine.in_flight:
            for sent in self.engine.step():
                self.judge.judge(sent)
        self.engine.settle()

    def _send(self) -> None:
        ask = self._following.popleft() if self._following and self._random.random() < 0.6 else self.load.opening()
        self.engine.send(ask)
        if ask.codebook:
            self._recent.append((ask.prompt, ask.span))

    def _hang_up(self) -> None:
        for sent in list(self.engine.live.values()):
            # Some clients give up while they wait, streaming ones in the middle of an answer.
            since = sent.admitted_at if sent.ask.stream else sent.sent_at
            patience = sent.ask.abort_after
            if since is not None and patience is not None and self.engine.steps - since >= patience:
                self.engine.abort(sent)
                self.judge.judge(sent)

    def _storm(self) -> None:
        # Now and then all running requests lose their blocks at once; most often just after a flip, when those
        # that are not routed yet must go on with the revision that they were admitted at.
        flipped = self.engine.flipped_at == self.engine.steps
        if self._random.random() < (STORM_RATE_AFTER_FLIP if flipped else STORM_RATE):
            self.counts["storms"] += 1
            self.engine.preempt_all()

    def _finish(self, sent: Sent) -> None:
        self.judge.judge(sent)
        following = self.load.following(sent.ask, sent.choices[0].tokens)
        if following is not None:
            self.counts["later_turns"] += 1
            self._following.append(following)


def soak(
    llm: Any,
    oracle: Oracle,
    folder: Path,
    *,
    requests: int,
    seed: int,
    parallel_share: float = 0.12,
    first_scores: bool = False,
) -> dict[str, Any]:
    """Run a soak on a started ``LLMEngine`` and return its report."""
    engine = SteppedEngine(llm)
    load, library = _world(oracle, seed)
    load.parallel_share = parallel_share
    updates = Updates(engine, library, folder, seed + 3, MOVE_RATE)
    judge = Judge(oracle, {name: shelf.revisions for name, shelf in library.shelves.items()}, first_scores)
    run = Soak(engine, load, updates, judge, seed + 4)
    before = {name: engine.metric(metric) for name, metric in METRICS.items()}
    begun = time.monotonic()
    exception = _caught(lambda: run.run(requests)) or _caught(run.end)
    measured = {name: engine.metric(metric) - before[name] for name, metric in METRICS.items()}
    status = {} if exception else _drained(llm)
    return {
        "engine": engine.describe(),
        "requests": engine.counts["sent"],
        "aborted": engine.counts["aborted"],
        "engine_steps": engine.steps,
        "seconds": round(time.monotonic() - begun, 1),
        **judge.summary(),
        **dict(run.counts),
        **dict(updates.counts),
        **measured,
        "exception": exception,
        "at_the_end": {name: status.get(name) for name in ("applied", "live_requests", "pages")},
    }


METRICS = {
    "preemptions": "vllm:num_preemptions",
    "prefix_queries": "vllm:prefix_cache_queries",
    "prefix_hits": "vllm:prefix_cache_hits",
    "accepted_drafts": "vllm:spec_decode_num_accepted_tokens",
}


def complaints(report: dict[str, Any], configuration: Configuration) -> list[str]:
    """Return what a report has against the design's bounds; an empty list is a pass."""
    ties = report.get("routing_ties", 0) + report.get("token_ties", 0)
    pages = report["at_the_end"]["pages"] or {}
    checks = {
        "exception": report["exception"] is None,
        "wrong responses": report["wrong"] == 0,
        "ties above 0.5 %": ties <= 0.005 * report["responses"],
        "matches below 30 %": report.get("matched", 0) >= 0.3 * report["responses"],
        "requests left": report["at_the_end"]["live_requests"] == 0,
        "rows of dropped codebooks not free": [pages.get(k, {}).get("used") for k in ("keys", "values")] == [0, 0],
        **{f"{name} is off": report["engine"][name] == value for name, value in configuration.claims().items()},
        **{f"no {name}": report.get(name, 0) > 0 for name in configuration.expects},
    }
    return [name for name, holds in checks.items() if not holds]


def _world(oracle: Oracle, seed: int) -> tuple[Load, Library]:
    load = Load(seed, dict.fromkeys(CODEBOOKS, 0.6), STOP_TEXTS)
    library = Library(oracle, load.topics, load.prefixes, seed + 1)
    load.codebooks = {name: shelf.style.template.ratio for name, shelf in library.shelves.items()}
    return load, library


def _caught(action: Callable[[], None]) -> str | None:
    try:
        action()
    except Exception:  # noqa: BLE001 - what is raised is the result
        return traceback.format_exc(limit=-6)
    return None


def _drained(llm: Any) -> dict[str, Any]:
    # Rows are freed on a thread of their own.
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while True:
        status = rpc.call(llm, "horen_status", {})
        if all(page["used"] == 0 for page in status["pages"].values()) or time.monotonic() > deadline:
            return status
        time.sleep(0.05)


def main() -> int:
    """Run one configuration and write its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--site", required=True)
    parser.add_argument("--configuration", choices=CONFIGURATIONS, default="v1-preemption")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--controls", action="store_true", help="then break each cache rule and count the mistakes")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = {"requests": arguments.requests, "seed": arguments.seed, "with_controls": arguments.controls}
        report = run(arguments.configuration, arguments.model, arguments.site, Path(folder), **options)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def run(
    name: str, model: str, site: str, folder: Path, *, requests: int, seed: int, with_controls: bool
) -> dict[str, Any]:
    """Start the engine of a configuration in this process, soak it and return the report."""
    from tests.e2e import cpu_platform
    from tests.e2e.engines import stepped_engine

    configuration = CONFIGURATIONS[name]
    if configuration.tiny_model is not None:
        model, site = make_tiny_model(configuration.tiny_model, Path(model), folder / "tiny")
    cpu_platform.insist(backend_split=configuration.backend_split, async_scheduling=configuration.async_scheduling)
    options = json.loads(json.dumps(configuration.options).replace("{model}", model))
    if options.get("tensor_parallel_size", 1) > 1:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
    begun = time.monotonic()
    horen = {**BUDGETS, "first_scores": configuration.first_scores}
    with stepped_engine(model, site, horen=horen, dtype="float32", **options) as llm:
        started = time.monotonic() - begun
        share, first = configuration.parallel_share, configuration.first_scores
        oracle = Oracle(model, site)
        report = soak(llm, oracle, folder, requests=requests, seed=seed, parallel_share=share, first_scores=first)
        if with_controls and report["exception"] is None:
            report["controls"] = controls(llm, oracle, folder)
    report = {"configuration": name, "seed": seed, "start_seconds": round(started, 1), **report}
    return {**report, "complaints": complaints(report, configuration)}


if __name__ == "__main__":
    raise SystemExit(main())
