"""What the editing benchmark edits: a model and enough edits for it.

The demo model with counterfactuals of its world, or a folder and a file of edits. Does not measure anything.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from transformers.utils.logging import disable_progress_bar

from bench.edit_quality import question
from bench.random_model import SEED
from horen_vllm.cli.demo_choice import spread
from horen_vllm.core.presets import MethodParameters, preset_parameters
from horen_vllm.demo.world import build_world
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId
from horen_vllm.registry.models import EditRecord, EditSpec, EditState

FIRST_SEQUENCE: Final = 1_000_000
"""The edits are newer than whatever a codebook was filled with."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with its method parameters and edits."""

    name: str
    folder: Path
    editable: EditableModel
    parameters: MethodParameters
    """The preset as the product uses it."""
    edits: tuple[EditSpec, ...]

    def take(self, start: int, count: int) -> list[EditRecord]:
        """Return `count` edits as records, from `start` on, and from the first again behind the last."""
        places = range(start, start + count)
        return [record(FIRST_SEQUENCE + place, self.edits[place % len(self.edits)]) for place in places]

    def describe(self) -> dict[str, Any]:
        """Return what a result file says of it."""
        config: Any = self.editable.model.config.get_text_config()
        return {
            "model": self.name,
            "layers": config.num_hidden_layers,
            "hidden": config.hidden_size,
            "vocabulary": config.vocab_size,
            "site": self.editable.site,
            "dtype": str(self.editable.model.dtype).removeprefix("torch."),
            "device": self.editable.device.type,
            "threads": torch.get_num_threads(),
            "parameters": self.parameters.to_dict(),
        }


def load_subject(folder: Path, edits: Sequence[EditSpec], *, name: str, device: str, threshold: float) -> Subject:
    """Load a model for editing: float32 on the CPU, bfloat16 elsewhere."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    editable = load_editable_model(str(folder), dtype=dtype, device=device)
    return Subject(name, folder, editable, preset_parameters("cosine", str(folder), threshold), tuple(edits))


def demo_edits(count: int) -> list[EditSpec]:
    """Return counterfactuals of the demo world, of all relations in turn, each about another fact."""
    world = build_world()
    facts = spread(world, count, random.Random(SEED))
    return [EditSpec(prompt=question(world, fact), target=world.counterfactual(fact, SEED)) for fact in facts]


def file_edits(path: Path) -> list[EditSpec]:
    """Return the edits of a JSON Lines file with fields `prompt` and `target`."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [EditSpec(prompt=row["prompt"], target=row["target"]) for row in rows]


def record(sequence: int, spec: EditSpec) -> EditRecord:
    """Return an edit as a worker that has claimed it sees it."""
    now = datetime.now(UTC)
    return EditRecord(
        edit_id=EditId(f"e{sequence}"),
        codebook=CodebookName(DEFAULT_TENANT, "bench"),
        sequence=sequence,
        spec=spec,
        state=EditState.TRAINING,
        reason_code=None,
        reason=None,
        attempt=1,
        artifact=None,
        same_as=None,
        alias_of=None,
        supersedes=(),
        overlaps=(),
        published_revision=None,
        active=False,
        created_at=now,
        updated_at=now,
        published_at=None,
    )
