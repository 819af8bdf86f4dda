"""Verification: what an entry does when it is generated with and routed to, before anyone is served by it.

Does not train and does not publish; every failure is an `EditFailed` with its numbers.
"""

from collections.abc import Sequence

import torch

from horen_vllm.core.match import KeyTable, route
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.values import value_span
from horen_vllm.editor.batch import answer_batch, answer_logits
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.inject import inject_values
from horen_vllm.editor.model import EditableModel
from horen_vllm.editor.train import TrainedValue


@torch.no_grad()
def generate(
    editable: EditableModel,
    contexts: Sequence[EditContext],
    target_ids: Sequence[int],
    values: torch.Tensor,
    parameters: MethodParameters,
) -> list[tuple[int, ...]]:
    """Return what the model answers greedily in each context with the value forced.

    As many tokens as the target has, and one more where the end is trained; nothing behind an end token.
    The whole sequence is recomputed for each token, so no cache stands between a value and its position.
    """
    span = value_span(len(target_ids), parameters)
    prompts = [context.prompt_ids for context in contexts]
    answers: list[list[int]] = [[] for _ in contexts]
    for _ in range(len(target_ids) + int(_must_end(parameters))):
        batch = answer_batch(prompts, answers, editable.device)
        with inject_values(editable, batch, values, mode=parameters.value_mode, span=span):
            chosen = answer_logits(editable, batch)[:, -1].argmax(dim=-1).tolist()
        for answer, token in zip(answers, chosen, strict=True):
            answer.append(token)
    return [_until_end(answer, editable.end_ids) for answer in answers]


def reaches_target(
    editable: EditableModel,
    contexts: Sequence[EditContext],
    target_ids: Sequence[int],
    values: torch.Tensor,
    parameters: MethodParameters,
) -> bool:
    """Return whether the value gives exactly the target (and the end, where trained) in every context."""
    answers = generate(editable, contexts, target_ids, values, parameters)
    return all(_is_target(editable, answer, target_ids, parameters) for answer in answers)


def check_target(
    editable: EditableModel,
    contexts: Sequence[EditContext],
    target_ids: Sequence[int],
    trained: TrainedValue,
    parameters: MethodParameters,
) -> None:
    """Refuse a trained value that does not give exactly the target in every context.

    Raises
    ------
    EditFailed
        ``target_not_reached``, naming the first such context and what the model answers there instead.
    """
    answers = generate(editable, contexts, target_ids, trained.values, parameters)
    for context, answer in zip(contexts, answers, strict=True):
        if not _is_target(editable, answer, target_ids, parameters):
            decode = editable.tokenizer.decode
            message = (
                f"after {trained.steps} steps (loss {trained.loss:.4f}) the {context.form} form of "
                f"{context.text!r} answers {decode(list(answer))!r} instead of {decode(list(target_ids))!r}."
            )
            raise EditFailed(message, code="target_not_reached")


def check_routing(
    table: KeyTable,
    candidate: int,
    own: tuple[Sequence[EditContext], torch.Tensor],
    foreign: tuple[Sequence[EditContext], torch.Tensor],
    parameters: MethodParameters,
) -> None:
    """Refuse a candidate that its own contexts do not reach, or that prompts reach which must not.

    Parameters
    ----------
    table
        Keys of the codebook as it would be with the candidate in it.
    candidate
        Its entry index in `table`.
    own
        Contexts of the edit, with their queries [k, d_in].
    foreign
        The must-not-fire prompts in all forms, with their queries [m, d_in].
    parameters
        Decide routing.

    Raises
    ------
    EditFailed
        ``key_not_matched`` or ``must_not_fire_fires``.
    """
    for context, decision in zip(own[0], route(own[1], table, parameters), strict=True):
        if decision.entry != candidate:
            message = (
                f"the {context.form} form of {context.text!r} does not reach its own key: best score "
                f"{decision.score:.4f}{_whose(decision.best, candidate)}, threshold {parameters.threshold:.4f}."
            )
            raise EditFailed(message, code="key_not_matched")
    for context, decision in zip(foreign[0], route(foreign[1], table, parameters), strict=True):
        if decision.entry == candidate:
            message = (
                f"the {context.form} form of {context.text!r} must not fire, but scores {decision.score:.4f} "
                f"(threshold {parameters.threshold:.4f})."
            )
            raise EditFailed(message, code="must_not_fire_fires")


def _whose(best: int | None, candidate: int) -> str:
    return "" if best == candidate else " with another entry"


def _must_end(parameters: MethodParameters) -> bool:
    return parameters.train_end and parameters.value_mode is not ValueMode.LAST


def _is_target(
    editable: EditableModel, answer: Sequence[int], target_ids: Sequence[int], parameters: MethodParameters
) -> bool:
    count = len(target_ids)
    if tuple(answer[:count]) != tuple(target_ids):
        return False
    return not _must_end(parameters) or (len(answer) == count + 1 and answer[-1] in editable.end_ids)


def _until_end(answer: Sequence[int], end_ids: frozenset[int]) -> tuple[int, ...]:
    ends = [index for index, token in enumerate(answer) if token in end_ids]
    return tuple(answer[: ends[0] + 1] if ends else answer)
