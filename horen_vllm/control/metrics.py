"""Numbers of the control plane for Prometheus; no label names a tenant, a codebook or an edit."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from horen_vllm.registry.models import EditState, RegistryCounts

UNFINISHED: Final = (EditState.COMMITTED, EditState.TRAINING, EditState.TRAINED)
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class ControlMetrics:
    """The metrics of one control plane, in a registry of their own."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self.calls = Counter(
            "horen_control_calls",
            "Calls that came to an end, by method and gRPC status.",
            ("method", "code"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "horen_control_call_seconds",
            "Time to answer a call; streams are left out.",
            ("method",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.running = self._gauge("horen_control_calls_running", "Calls that have not come to an end, streams too.")
        self.up = self._gauge("horen_control_database_up", "1 while the database answers, else 0.")
        self.edits = Gauge(
            "horen_control_edits_unfinished",
            "Edits that are neither published nor failed, by state.",
            ("state",),
            registry=self.registry,
        )
        self.oldest = self._gauge(
            "horen_control_oldest_edit_seconds", "Age of the oldest unfinished edit; 0: there is none."
        )
        self.claims = self._gauge("horen_control_edits_claimed", "Unfinished edits that a living worker holds.")
        self.workers = self._gauge("horen_control_workers", "Workers that hold claims.")
        self.replicas = self._gauge("horen_control_replicas_live", "Servers with an unexpired lease.")
        self.codebooks = self._gauge("horen_control_codebooks", "Codebooks of all tenants, without deleted ones.")
        self.events = self._gauge("horen_control_audit_events", "Events in the audit log; it only grows.")

    def show(self, counts: RegistryCounts) -> None:
        """Take over what the registry holds."""
        for state in UNFINISHED:
            self.edits.labels(state.value).set(counts.unfinished.get(state, 0))
        self.oldest.set(counts.oldest_unfinished_s)
        self.claims.set(counts.claimed)
        self.workers.set(counts.workers)
        self.replicas.set(counts.live_replicas)
        self.codebooks.set(counts.codebooks)
        self.events.set(counts.audit_events)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)
