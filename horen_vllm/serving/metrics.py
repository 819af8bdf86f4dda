"""Prometheus metrics of one API server: what became of requests for codebooks, and what the engine holds of them.

Plain counters and gauges only: with several API servers ``/metrics`` merges their files, and a collector class of our
own would vanish there. Gauges carry the value that was set last by any of the servers.
"""

import os
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from horen_vllm.ids import CodebookName, TenantId

MAX_CODEBOOKS: Final = 1000
"""Codebooks with label sets of their own; all others share the labels `OTHER`, so that ``/metrics`` stays readable."""
OTHER: Final = "_other"
"""Tenant and codebook label of what has no label set of its own; not a valid name of either."""

_BOOK: Final = ("tenant", "codebook")
_MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"

M = TypeVar("M", Counter, Gauge)


class ServingMetrics:
    """All ``horen_*`` metrics; one object in a process, since their names are registered once.

    Parameters
    ----------
    registry
        Where they are registered; vLLM's ``/metrics`` shows the default one.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"horen_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"horen_{name}", text, labels, registry=registry, multiprocess_mode="mostrecent")

        self._routed = counter("requests_routed", "Answers that were routed through a codebook.", _BOOK)
        self._matched = counter("requests_matched", "Answers in which an edit fired.", _BOOK)
        self._unmatched = counter("requests_unmatched", "Answers in which no edit fired.", _BOOK)
        self._refused = counter("requests_refused", "Requests for a codebook that were refused.", (*_BOOK, "code"))
        self._flips = counter("flips", "Revisions that the engine has taken.")
        self._staging_refused = counter("staging_refused", "Revisions that the engine refused.", (*_BOOK, "code"))
        self._sync_failures = counter("sync_failures", "Rounds of the sync agent that failed.", ("code",))

        self._applied = gauge("applied_revision", "Revision that new requests are routed through.", _BOOK)
        self._latest = gauge("latest_revision", "Newest revision that the control plane has named.", _BOOK)
        self._entries = gauge("entries", "Entries of the applied revision.", _BOOK)
        self._pages_used = gauge("pages_used", "Keys: numbers of the buffer in use. Values: vectors in use.", ("kind",))
        self._pages_free = gauge("pages_free", "The same, free.", ("kind",))
        self._pages_budget = gauge("pages_budget", "The same, allocated at start.", ("kind",))
        self._page_bytes = gauge("page_bytes", "Bytes of one of them.", ("kind",))
        self._live_requests = gauge("live_requests", "Requests in the engine that have a codebook.")
        self._routed_prompts = gauge("routed_prompts", "Prompts that the engine has routed since it started.")
        self._routing_seconds = gauge("routing_seconds", "Time that routing took since the engine started.")
        self._flip_seconds = gauge("flip_seconds", "Duration of the latest flip.")
        self._lease_age = gauge("lease_age_seconds", "Time since the control plane took this server's heartbeat.")
        self._series: dict[CodebookName, set[tuple[Counter | Gauge, tuple[str, ...]]]] = {}
        self._serving: frozenset[CodebookName] = frozenset()
        self.changes = 0
        """Answers and updates of the engine that this server knows of."""

    def observe(self, decision: dict[str, Any]) -> None:
        """Count one decision as the engine reports it: ``codebook`` is a resource name, ``edit_id`` may be None."""
        self.changes += 1
        name = CodebookName.parse(decision["codebook"])
        self._of(self._routed, name).inc()
        self._of(self._unmatched if decision["edit_id"] is None else self._matched, name).inc()

    def refused(self, name: CodebookName, code: str) -> None:
        """Count a refused request.

        `name` must not be the client's free choice: its codebook is empty unless this server serves it, its tenant
        unless a key proved it.
        """
        self._of(self._refused, name, code).inc()

    def flipped(self, name: CodebookName, revision: int) -> None:
        """Note that the engine has taken a revision."""
        self.changes += 1
        self._flips.inc()
        self._of(self._applied, name).set(revision)

    def staging_refused(self, name: CodebookName, code: str) -> None:
        """Count a revision that the engine refused."""
        self._of(self._staging_refused, name, code).inc()

    def latest(self, name: CodebookName, revision: int) -> None:
        """Note the newest revision that the control plane has named."""
        self._of(self._latest, name).set(revision)

    def sync_failed(self, code: str) -> None:
        """Count a failed round of the sync agent."""
        self._sync_failures.labels(code).inc()

    def lease_age(self, seconds: float) -> None:
        """Set the time since the last heartbeat that the control plane took; infinite before the first."""
        self._lease_age.set(seconds)

    def engine(self, status: dict[str, Any]) -> None:
        """Take over a worker's ``horen_status``."""
        for text, revision in status["applied"].items():
            name = CodebookName.parse(text)
            self._of(self._applied, name).set(revision)
            self._of(self._entries, name).set(status["entries"][text])
        for kind, pages in status["pages"].items():
            self._pages_used.labels(kind).set(pages["used"])
            self._pages_free.labels(kind).set(pages["free"])
            self._pages_budget.labels(kind).set(pages["budget"])
            self._page_bytes.labels(kind).set(pages["bytes"])
        self._live_requests.set(status["live_requests"])
        self._routed_prompts.set(status["routing"]["requests"])
        self._routing_seconds.set(status["routing"]["seconds"])
        self._flip_seconds.set(status["flip_seconds"] or 0.0)

    def serving(self, names: Iterable[CodebookName]) -> None:
        """Note what is served now; the label sets of what was served at the last call and is not now are removed."""
        served = frozenset(names)
        self.changes += served != self._serving
        for name in self._serving - served:
            self.drop(name)
        self._serving = served

    def drop(self, name: CodebookName) -> None:
        """Remove the label sets of a codebook; harmless when it has none."""
        for metric, labels in self._series.pop(name, ()):
            _remove(metric, labels)

    def _of(self, metric: M, name: CodebookName, *more: str) -> M:
        if name not in self._series and len(self._series) >= MAX_CODEBOOKS:
            name = CodebookName(TenantId(OTHER), OTHER)
        labels = (name.tenant, name.codebook, *more)
        self._series.setdefault(name, set()).add((metric, labels))
        return metric.labels(*labels)


def _remove(metric: Counter | Gauge, labels: tuple[str, ...]) -> None:
    if _MULTIPROCESS not in os.environ:
        metric.remove(*labels)
    elif isinstance(metric, Gauge):
        # The files that API servers share know no removal: a zero says at least that nothing is served.
        metric.labels(*labels).set(0)
