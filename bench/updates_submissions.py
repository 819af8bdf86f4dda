"""One edit after another on a server that runs: how long until a client's question is answered with it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.quantiles import summary
from horen_vllm.cli.demo_choice import Choice
from horen_vllm.control.client import EditProgress, EditView, HorenClient
from horen_vllm.evals.endpoint import Endpoint
from horen_vllm.registry.models import EditSpec

_PAUSE_S: Final = 0.01
"""Between two questions: without one they would take the editor's cores."""
_LOOK_S: Final = 1.0
"""Between two looks at whether the edit has failed."""
_TIMEOUT_S: Final = 120.0
_TARGET_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class Submission:
    """Milliseconds from the call of SubmitEdit.

    Attributes
    ----------
    published
        By the control plane's clock, from storing the edit: waiting, training and publishing.
    answered
        Until the answer to the first question that the edit fired for.
    serving
        Until a client that waits is told SERVING; it is asked after the first answer.
    right
        Whether the answer begins with the target.
    """

    published: float
    answered: float
    serving: float
    right: bool


def submit_all(
    client: HorenClient, endpoint: Endpoint, model: str, book: str, choices: Sequence[Choice]
) -> dict[str, Any]:
    """Submit edits one after another, each when the one before is served, and return the times.

    Raises
    ------
    RuntimeError
        When none of them is served.
    """
    found = [_submitted(client, endpoint, model, book, choice) for choice in choices]
    served = [one for one in found if one is not None]
    if not served:
        raise RuntimeError("no edit was served.")
    return {
        "edits": len(choices),
        "failed": len(choices) - len(served),
        "right": sum(one.right for one in served),
        "to_published_ms": summary([one.published for one in served]),
        "to_first_answer_ms": summary([one.answered for one in served]),
        "to_serving_ms": summary([one.serving for one in served]),
    }


def _submitted(client: HorenClient, endpoint: Endpoint, model: str, book: str, choice: Choice) -> Submission | None:
    """Return the times of one edit; None if its training failed."""
    began = time.perf_counter()
    edit = client.submit_edit(book, EditSpec(prompt=choice.prompt, target=choice.target))
    if not _answered(client, endpoint, model, edit, choice.prompt):
        return None
    answered = time.perf_counter()
    view = client.wait_edit(edit, until=EditProgress.SERVING, timeout_s=_TIMEOUT_S)
    serving = time.perf_counter()
    if view.published_at is None:
        raise RuntimeError(f"{edit.name} answers and was never published.")
    answer = endpoint.ask(model, choice.prompt, max_tokens=_TARGET_TOKENS)
    return Submission(
        published=1e3 * (view.published_at - view.created_at).total_seconds(),
        answered=1e3 * (answered - began),
        serving=1e3 * (serving - began),
        right=answer.edit_id == edit.edit_id and answer.text.startswith(choice.target),
    )


def _answered(client: HorenClient, endpoint: Endpoint, model: str, edit: EditView, prompt: str) -> bool:
    """Ask until the edit fires; return False if its training failed."""
    began = looked = time.perf_counter()
    while endpoint.ask(model, prompt, max_tokens=1).edit_id != edit.edit_id:
        now = time.perf_counter()
        if now - began > _TIMEOUT_S:
            raise RuntimeError(f"{edit.name} does not fire after {_TIMEOUT_S:g} s.")
        if now - looked > _LOOK_S:
            looked = now
            if client.get_edit(edit).state is EditProgress.FAILED:
                return False
        time.sleep(_PAUSE_S)
    return True
