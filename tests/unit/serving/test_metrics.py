"""What the metrics say, in one process and in several, and that the docs name them all."""

import asyncio
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from horen_vllm.control.metrics import ControlMetrics
from horen_vllm.editor.working.metrics import EditorMetrics
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.serving.gauges import keep_gauges, read_gauges
from horen_vllm.serving.metrics import MAX_CODEBOOKS, ServingMetrics
from tests.unit.serving.doubles import Clock, decision, name_of, served_books

ROOT = Path(__file__).resolve().parents[3]
FACTS = {"tenant": "default", "codebook": "facts"}


class Page:
    """Metrics and what ``/metrics`` would show of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = ServingMetrics(self.registry)

    def __getitem__(self, name: str) -> float | None:
        return self.of(name)

    def of(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        return self.registry.get_sample_value(f"horen_{name}", labels or {})

    def labels(self) -> set[str]:
        return {
            sample.labels["codebook"]
            for family in self.registry.collect()
            for sample in family.samples
            if "codebook" in sample.labels
        }


@pytest.fixture
def page() -> Page:
    return Page()


def status(*codebooks: str) -> dict[str, Any]:
    names = [str(name_of(codebook)) for codebook in codebooks]
    return {
        "applied": {name: 4 + index for index, name in enumerate(names)},
        "entries": {name: 10 + index for index, name in enumerate(names)},
        "live_requests": 3,
        "sequence": 9,
        "pages": {
            "keys": {"used": 10, "free": 22, "budget": 32, "bytes": 4},
            "values": {"used": 40, "free": 24, "budget": 64, "bytes": 384},
        },
        "routing": {"requests": 7, "seconds": 0.25},
        "flip_seconds": 0.001,
        "op_calls": 12,
    }


def test_every_decision_is_routed_and_either_matched_or_not(page: Page) -> None:
    for edit_id in ("e1", None, "e2"):
        page.metrics.observe(decision(edit_id=edit_id))
    page.metrics.observe(decision("other", None))
    counts = [page.of(f"requests_{kind}_total", FACTS) for kind in ("routed", "matched", "unmatched")]
    assert counts == [3.0, 2.0, 1.0]
    assert page.of("requests_unmatched_total", {**FACTS, "codebook": "other"}) == 1.0
    assert page.of("requests_matched_total", {**FACTS, "codebook": "other"}) is None


def test_refusals_are_counted_by_code(page: Page) -> None:
    page.metrics.refused(name_of("facts"), "replica_stale")
    page.metrics.refused(CodebookName(TenantId("acme"), ""), "unknown_codebook")
    page.metrics.staging_refused(name_of("facts"), "capacity_exhausted")
    page.metrics.sync_failed("control_unavailable")
    assert page.of("requests_refused_total", {**FACTS, "code": "replica_stale"}) == 1.0
    unknown = {"tenant": "acme", "codebook": "", "code": "unknown_codebook"}
    assert page.of("requests_refused_total", unknown) == 1.0
    assert page.of("staging_refused_total", {**FACTS, "code": "capacity_exhausted"}) == 1.0
    assert page.of("sync_failures_total", {"code": "control_unavailable"}) == 1.0


def test_the_gauges_say_what_the_engine_reports(page: Page) -> None:
    page.metrics.engine(status("more", "facts"))
    assert (page.of("applied_revision", FACTS), page.of("entries", FACTS)) == (5.0, 11.0)
    pages = [page.of(f"pages_{state}", {"kind": "values"}) for state in ("used", "free", "budget")]
    assert pages == [40.0, 24.0, 64.0]
    assert [page.of("page_bytes", {"kind": kind}) for kind in ("keys", "values")] == [4.0, 384.0]
    assert (page["live_requests"], page["routed_prompts"], page["routing_seconds"]) == (3.0, 7.0, 0.25)
    assert page["flip_seconds"] == 0.001
    page.metrics.engine({**status(), "flip_seconds": None})
    assert page["flip_seconds"] == 0.0


def test_a_flip_shows_before_the_next_reading(page: Page) -> None:
    page.metrics.latest(name_of("facts"), 6)
    page.metrics.flipped(name_of("facts"), 5)
    assert page["flips_total"] == 1.0
    assert (page.of("applied_revision", FACTS), page.of("latest_revision", FACTS)) == (5.0, 6.0)


def test_a_removed_codebook_leaves_no_label_set_behind(page: Page) -> None:
    page.metrics.serving([name_of("facts"), name_of("more")])
    page.metrics.engine(status("facts", "more"))
    page.metrics.observe(decision())
    page.metrics.refused(name_of("facts"), "replica_stale")
    page.metrics.latest(name_of("facts"), 6)
    page.metrics.serving([name_of("more")])
    assert page.labels() == {"more"}
    page.metrics.drop(name_of("nobody"))


def test_a_codebook_that_was_never_served_keeps_its_refusals(page: Page) -> None:
    page.metrics.staging_refused(name_of("facts"), "capacity_exhausted")
    page.metrics.serving([])
    page.metrics.serving([])
    assert page.labels() == {"facts"}


def test_label_sets_are_bounded(page: Page) -> None:
    for number in range(MAX_CODEBOOKS + 5):
        page.metrics.observe(decision(f"c{number}"))
    assert len(page.labels()) == MAX_CODEBOOKS + 1
    assert page.of("requests_routed_total", {"tenant": "_other", "codebook": "_other"}) == 5.0
    page.metrics.observe(decision("c0"))
    assert page.of("requests_routed_total", {**FACTS, "codebook": "c0"}) == 2.0


def test_a_reading_takes_the_lease_from_the_table_and_the_rest_from_the_engine(page: Page) -> None:
    clock = Clock()
    served = served_books("facts", clock=clock)

    async def report() -> dict[str, Any]:
        return status("facts")

    async def nothing() -> None:
        return None

    clock.now += 7.0
    asyncio.run(read_gauges(page.metrics, served, nothing))
    assert (page["lease_age_seconds"], page["live_requests"]) == (7.0, 0.0)
    asyncio.run(read_gauges(page.metrics, served, report))
    assert (page.of("entries", FACTS), page["live_requests"]) == (10.0, 3.0)
    served.show([], confirmed_at=clock())
    asyncio.run(read_gauges(page.metrics, served, nothing))
    assert page.labels() == set()


def test_a_failed_reading_is_not_the_last(page: Page) -> None:
    async def run() -> None:
        answered = asyncio.Event()
        failures = iter([ConnectionError("engine")])

        async def report() -> dict[str, Any]:
            for failure in failures:
                raise failure
            answered.set()
            return status("facts")

        task = asyncio.create_task(keep_gauges(page.metrics, served_books("facts"), report, period_s=0.001))
        await answered.wait()
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert page.of("entries", FACTS) == 10.0


def test_an_engine_that_is_asked_nothing_is_read_seldom(page: Page) -> None:
    """Each call keeps its workers polling for a second."""

    async def run() -> list[int]:
        served, read, periods = served_books("facts"), list[int](), 0

        async def report() -> dict[str, Any]:
            read.append(periods)
            return status("facts")

        async def sleep(_seconds: float) -> None:
            nonlocal periods
            periods += 1
            if periods == 40:
                page.metrics.observe({"codebook": "tenants/default/codebooks/facts", "edit_id": None})
            if periods == 43:
                page.metrics.flipped(CodebookName.parse("tenants/default/codebooks/facts"), 2)
            if periods == 60:
                raise asyncio.CancelledError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "sleep", sleep)
            with suppress(asyncio.CancelledError):
                await keep_gauges(page.metrics, served, report)
        return read

    # What is served was not known before the first reading.
    assert asyncio.run(run()) == [0, 1, 16, 31, 40, 43, 58]


SERVER = """
import sys, warnings
warnings.simplefilter("error")
from horen_vllm.ids import CodebookName
from horen_vllm.serving.metrics import ServingMetrics
facts = CodebookName.parse("tenants/default/codebooks/facts")
metrics = ServingMetrics()
metrics.observe({"codebook": str(facts), "edit_id": "e1"})
metrics.flipped(facts, int(sys.argv[1]))
if sys.argv[1] == "2":
    metrics.serving([facts])
    metrics.serving([])
"""
PAGE = """
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def test_several_api_servers_share_one_page(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for revision in ("1", "2"):
        subprocess.run([sys.executable, "-c", SERVER, revision], env=environment, check=True)
    shown = subprocess.run([sys.executable, "-c", PAGE], env=environment, check=True, capture_output=True, text=True)
    labels = '{codebook="facts",tenant="default"}'
    assert f"horen_requests_matched_total{labels} 2.0" in shown.stdout
    # The newest value wins; a removed codebook's gauge reads 0, since the files know no removal.
    assert f"horen_applied_revision{labels} 0.0" in shown.stdout
    assert "horen_flips_total 2.0" in shown.stdout


def test_the_docs_name_every_metric_and_no_other(page: Page) -> None:
    text = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(horen_\w+)` \|", text, flags=re.MULTILINE)
    others = EditorMetrics().registry, ControlMetrics().registry
    families = [*page.registry.collect(), *(family for registry in others for family in registry.collect())]
    assert sorted(documented) == sorted(
        family.name + ("_total" if family.type == "counter" else "") for family in families
    )
