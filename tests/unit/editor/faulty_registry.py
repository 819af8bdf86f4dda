"""The registry of the worker's tests: the real one on SQLite, with a clock to turn and faults to order."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.errors import Unavailable
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId
from horen_vllm.registry.models import Claim, Delta, EditRecord, EditSpec, EditState, Publication
from horen_vllm.registry.store import SqlRegistry

NAME = CodebookName(DEFAULT_TENANT, "facts")
SPEC = EditSpec(prompt="Who leads Acme?", target="Ann")
OTHERS = [EditSpec(prompt=prompt, target="Q") for prompt in ("Zz top is", "0123456789", "[[{}]] ==")]
"""Prompts far from each other in the tiny model's eyes."""


class FaultyRegistry(SqlRegistry):
    """The real registry with a clock to turn and faults to order."""

    def __init__(self, url: str) -> None:
        self.ahead = timedelta()
        super().__init__(url, clock=lambda: datetime.now(UTC) + self.ahead)
        self.before_publish: list[Callable[[], object]] = []
        self.states_at_publish: list[list[EditState]] = []
        self.deltas: list[int] = []
        self.outages = 0
        self.extensions: list[int] = []

    def claim(self, worker: str, *, lease_s: float, fingerprint: str, limit: int = 1) -> tuple[Claim, ...]:
        if self.outages:
            self.outages -= 1
            raise no_registry()
        return super().claim(worker, lease_s=lease_s, fingerprint=fingerprint, limit=limit)

    def extend(self, claims: Sequence[Claim], *, lease_s: float) -> tuple[Claim, ...]:
        self.extensions.append(len(claims))
        return super().extend(claims, lease_s=lease_s)

    def delta(self, name: CodebookName, since: int) -> Delta:
        self.deltas.append(since)
        return super().delta(name, since)

    def publish(self, batch: Sequence[tuple[Claim, Publication]]) -> tuple[EditRecord, ...]:
        self.states_at_publish.append([self.get_edit(claim.edit.edit_id).state for claim, _ in batch])
        if self.before_publish:
            self.before_publish.pop(0)()
        return super().publish(batch)


def no_registry() -> Unavailable:
    return Unavailable("the database does not answer.", code="registry_unavailable")


def create(registry: SqlRegistry, name: CodebookName, editable: EditableModel, parameters: MethodParameters) -> None:
    registry.create_codebook(
        name, model="tiny", fingerprint=editable.fingerprint, site=editable.site, parameters=parameters
    )


def states(registry: SqlRegistry, edits: Sequence[EditId]) -> list[tuple[str, int | None, str | None]]:
    records = [registry.get_edit(edit) for edit in edits]
    return [(record.state.value, record.published_revision, record.reason_code) for record in records]
