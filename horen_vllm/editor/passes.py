"""The passes of one batch of edits through the model: what all ranks that hold the model do alike.

Rank 0 calls the methods of `EditPasses`; the others hear of each call and make it too (`follow`). What is not here,
codebooks, the registry and every decision about an edit, is rank 0's alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import torch

from horen_vllm.artifact import KeyContext
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.codebook.prospect import Captured
from horen_vllm.editor.forward.clean import means
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.prepare import PreparedEdit, clean_captured, prepare_edits
from horen_vllm.editor.training.adaptor import ValueLayout
from horen_vllm.editor.training.train import Progress, TrainedValue, ValueTask, train_values
from horen_vllm.editor.training.verify import check_values, require_target
from horen_vllm.errors import HorenError
from horen_vllm.registry.models import EditRecord


@dataclass(frozen=True, slots=True)
class _NewBatch:
    """Order: forget the last batch and prepare these edits."""

    records: tuple[EditRecord, ...]
    parameters: MethodParameters
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class _Means:
    """Order: average the site's inputs of these contexts."""

    contexts: tuple[KeyContext, ...]
    parameters: MethodParameters


@dataclass(frozen=True, slots=True)
class _Call:
    """Order: call a method of the batch's passes."""

    method: str
    arguments: tuple[Any, ...]


class EditPasses:
    """Edits that are prepared, trained and checked together; indexes are into `records`.

    Parameters
    ----------
    editable
        The base model.
    records
        The edits, by sequence.
    keying
        Of their codebook.
    memory
        Bounds what is computed at once.
    """

    def __init__(
        self,
        editable: EditableModel,
        records: Sequence[EditRecord],
        keying: Keying,
        memory: MemoryLimit,
    ) -> None:
        self._editable = editable
        self._parameters = keying.parameters
        self._memory = memory
        # Without the space: the other ranks run the model, and what queries are made of it is rank 0's affair.
        with editable.ranks.together(_NewBatch(tuple(records), keying.parameters, memory.limit_bytes)):
            self.edits = prepare_edits(editable, records, keying, memory)
            """Each edit prepared, or what is wrong with it (`prepare.prepare_edits`)."""

    def prepared(self, index: int) -> PreparedEdit:
        """Return an edit, or raise what is wrong with it."""
        edit = self.edits[index]
        if isinstance(edit, HorenError):
            raise edit
        return edit

    def train(
        self, indexes: Sequence[int], progress: Progress = lambda _steps, _left: None
    ) -> Sequence[TrainedValue | HorenError]:
        """Train a value for each of these edits (`train.train_values`)."""
        with self._editable.ranks.together(_Call("train", (tuple(indexes),))):
            edits = [self.prepared(index) for index in indexes]
            tasks = [ValueTask(edit.prospect.normalised_prompt, edit.layout, edit.rows) for edit in edits]
            return train_values(self._editable, tasks, self._parameters, self._memory, progress)

    def check(self, index: int, values: torch.Tensor, layout: ValueLayout) -> TrainedValue:
        """Return what values achieve in the contexts of an edit (`verify.check_values`)."""
        with self._editable.ranks.together(_Call("check", (index, values, layout))):
            return check_values(self._editable, self.prepared(index).rows, values, layout, self._memory)

    def check_captured(self, index: int, captured: Sequence[Captured], values: torch.Tensor) -> TrainedValue:
        """Return what an edit's values achieve on earlier entries' prompts (`prepare.clean_captured`)."""
        with self._editable.ranks.together(_Call("check_captured", (index, tuple(captured), values))):
            edit = self.prepared(index)
            rows = clean_captured(self._editable, edit, captured, self._parameters, self._memory)
            return check_values(self._editable, rows, values, edit.layout, self._memory)

    def require_target(self, index: int, value: TrainedValue) -> None:
        """Refuse a value that does not give its edit's target (`verify.require_target`)."""
        with self._editable.ranks.together(_Call("require_target", (index, value))):
            require_target(self._editable, self.prepared(index), value, self._parameters)


def context_means(
    editable: EditableModel, contexts: Sequence[KeyContext], parameters: MethodParameters, memory: MemoryLimit
) -> torch.Tensor:
    """Return the averaged site inputs of contexts [len(contexts), d_in], masks left out; raises as `clean.means`."""
    with editable.ranks.together(_Means(tuple(contexts), parameters)):
        return means(editable, contexts, parameters, memory)


def follow(editable: EditableModel, memory: MemoryLimit) -> None:
    """Make rank 0's calls until it has no more; for the other ranks."""
    passes: EditPasses | None = None
    while (order := editable.ranks.hear()) is not None:
        try:
            if isinstance(order, _NewBatch):
                # First, or two batches would be in memory.
                passes = None
                memory.limit_bytes = order.limit_bytes
                passes = EditPasses(editable, order.records, Keying(order.parameters), memory)
            elif isinstance(order, _Means):
                means(editable, order.contexts, order.parameters, memory)
            elif passes is not None:
                getattr(passes, order.method)(*order.arguments)
        except Exception as exc:  # noqa: BLE001 - rank 0 met the same (`Ranks.together`) and deals with it
            structlog.get_logger().debug("order ended", rank=editable.ranks.rank, error=type(exc).__name__)
