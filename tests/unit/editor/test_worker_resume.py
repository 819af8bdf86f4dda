"""Workers that are killed with SIGKILL, wherever it hurts: nothing is lost, nothing is done twice."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.presets import preset_parameters
from horen_vllm.editor import passes
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.training.train import train_values
from horen_vllm.registry.models import MAX_ATTEMPTS, EditSpec, EditState

from .workplace import LEASE_S, Place, Story, die

WORDS = ("acme", "bolt", "crux", "dune", "echo", "flux", "gale", "husk", "iris", "jolt", "kelp", "lime", "moss", "nova")
PARAMETERS = replace(preset_parameters("cosine", "tiny", threshold=0.995), max_steps=200, stop_loss=0.2)
POISON = EditSpec(prompt="poison is", target="x")


def specs() -> list[EditSpec]:
    """Forty edits: facts, some of them again or with another target, and some that cannot be made."""
    facts = [EditSpec(prompt=f"{word} {number} is", target=word[:2]) for number, word in enumerate(WORDS)]
    facts += [EditSpec(prompt=f"[{number}] {word[::-1]}?", target=word[-2:]) for number, word in enumerate(WORDS)]
    again = [replace(fact, prompt=fact.prompt.upper()) for fact in facts[3:7]]
    corrected = [replace(fact, target="Xy") for fact in facts[5:9]]
    bad = [EditSpec(prompt="w" * 300, target="x"), replace(facts[2], target="y", must_not_fire=(facts[2].prompt,))]
    return [*facts[:10], *again, *corrected, bad[0], *facts[10:], bad[1], corrected[0], facts[0]]


def kill_in_training(step: int, batch: int) -> None:
    """Make this process die when so many steps of training the n-th batch are done."""
    real, seen = train_values, []

    def deadly(editable: EditableModel, tasks: Any, parameters: Any, memory: Any, _progress: Any) -> Any:
        seen.append(tasks)

        def look(steps: int, _left: int) -> None:
            if len(seen) == batch and steps == step:
                die()

        return real(editable, tasks, parameters, memory, look)

    pytest.MonkeyPatch().setattr(passes, "train_values", deadly)


def kill_at_artifact(nth: int) -> None:
    """Make this process die when it has stored so many entries."""
    real, seen = ArtifactFolder.put, []

    def deadly(self: ArtifactFolder, data: bytes) -> str:
        seen.append(real(self, data))
        if len(seen) == nth:
            die()
        return seen[-1]

    pytest.MonkeyPatch().setattr(ArtifactFolder, "put", deadly)


def kill_on_poison(editable: EditableModel) -> None:
    """Make the model kill its process whenever it reads the poisonous prompt."""
    poison = torch.tensor(editable.tokenizer.encode(POISON.prompt, add_special_tokens=False))

    def taste(_module: Any, _args: Any, fed: dict[str, Any]) -> None:
        if (fed["input_ids"].unfold(1, len(poison), 1) == poison).all(dim=-1).any():
            die()

    decoder: torch.nn.Module = editable.model.get_submodule("model")
    decoder.register_forward_pre_hook(taste, with_kwargs=True)


@pytest.fixture
def place(tmp_path: Path, empty_database: Path, editable: EditableModel) -> Place:
    return new_place(tmp_path, empty_database, editable)


def new_place(folder: Path, empty_database: Path, editable: EditableModel) -> Place:
    return Place(f"sqlite:///{shutil.copy(empty_database, folder)}", folder / "artifacts", editable)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, editable: EditableModel) -> Story:
    """What becomes of the edits, made one by one by a worker that nobody kills."""
    place = new_place(tmp_path_factory.mktemp("undisturbed"), empty_database, editable)
    place.submit(PARAMETERS, specs())
    with capture_logs():
        place.work(batch=1)
    story = place.story()
    assert len({tuple(map(bool, fate)) for fate in story}) >= 4, "new, same, superseding and failed edits"
    return story


@pytest.mark.parametrize(
    "death",
    [
        pytest.param({"sabotage": lambda: kill_in_training(5, 1)}, id="training the first batch"),
        pytest.param({"sabotage": lambda: kill_in_training(2, 3)}, id="training the third batch"),
        pytest.param({"sabotage": lambda: kill_at_artifact(12)}, id="entries stored, not published"),
        pytest.param({"deadly": "trained", "nth": 2}, id="before a group is trained"),
        pytest.param({"deadly": "publish", "nth": 2}, id="before a group is published"),
        pytest.param({"deadly": "publish", "nth": 2, "after": True}, id="after a group is published"),
        pytest.param({"deadly": "finish_same", "nth": 3}, id="before an edit is closed as there"),
        pytest.param({"deadly": "fail"}, id="before a failure is stored"),
    ],
)
def test_a_killed_worker_loses_and_repeats_nothing(place: Place, undisturbed: Story, death: dict[str, Any]) -> None:
    place.submit(PARAMETERS, specs())
    assert place.fork(**death) == -signal.SIGKILL
    # How many edits a group has depends on the time they take, so the batch in hand may just be over.
    assert any(record.state not in {EditState.PUBLISHED, EditState.FAILED} for record in place.records())
    assert place.fork(ahead_s=2 * LEASE_S) == 0
    assert place.story() == undisturbed


def test_an_edit_that_kills_every_worker_is_given_up_and_its_neighbours_are_published(place: Place) -> None:
    facts = specs()[:10]
    place.submit(PARAMETERS, [*facts[:5], POISON, *facts[5:]])
    deaths = 0
    while place.fork(ahead_s=2 * LEASE_S * deaths, sabotage=lambda: kill_on_poison(place.editable)) != 0:
        deaths += 1
        assert deaths <= MAX_ATTEMPTS
    assert deaths == MAX_ATTEMPTS
    fates = [(state, code) for state, code, *_ in place.story()]
    assert fates == [*[("published", None)] * 5, ("failed", "attempts_exhausted"), *[("published", None)] * 5]
