"""Verification: whether a value gives its target by greedy decoding, in every context it will fire in.

Greedy decoding gives the target exactly when, behind every prefix of it, the arg-max is the next token; so one
pass over prompt and target decides it. Does not train and does not publish.
"""

from collections.abc import Sequence

import torch

from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.codebook.prospect import Captured
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.failure import EditFailed, quoted
from horen_vllm.editor.forward.batch import answer_batch, answer_logits
from horen_vllm.editor.forward.clean import CleanRow
from horen_vllm.editor.forward.inject import inject_values
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.prepare import PreparedEdit
from horen_vllm.editor.training.adaptor import ValueLayout
from horen_vllm.editor.training.rows import RowGroups
from horen_vllm.editor.training.train import StopReason, TrainedValue


def check_values(
    editable: EditableModel,
    rows: Sequence[CleanRow],
    values: torch.Tensor,
    layout: ValueLayout,
    memory: MemoryLimit,
) -> TrainedValue:
    """Return what `values` [n, d_out] achieve in these rows, as a run of training without any step would say it.

    Raises
    ------
    EditFailed
        ``out_of_memory``, when a single row does not fit.
    """
    groups = RowGroups(editable, [rows], [layout], memory)
    evaluation = groups.check(values[None].to(editable.device), torch.ones(1, dtype=torch.bool))
    if groups.failed:
        raise groups.failed[0]
    return TrainedValue(values, evaluation.losses[0], 0, evaluation.right[0], StopReason.CONVERGED)


def require_target(
    editable: EditableModel, edit: PreparedEdit, value: TrainedValue, parameters: MethodParameters
) -> None:
    """Refuse a value that does not give exactly the target (and the end, where trained) in every context.

    Raises
    ------
    EditFailed
        ``target_not_reached``, naming the first such context and what the model answers there instead.
    """
    if value.greedy_ok:
        return
    decode = editable.tokenizer.decode
    target = list(edit.prospect.target_ids)
    lead = f"after {value.steps} steps (loss {value.loss:.4f})"
    for context in edit.prospect.contexts:
        answer = generate(editable, context, value.values, edit.layout, len(edit.labels))
        if answer != edit.labels:
            message = (
                f"{lead} the {context.form} form of {quoted(context.text)} answers {quoted(str(decode(list(answer))))} "
                f"instead of {quoted(str(decode(target)))}{' and its end' if parameters.train_end else ''}."
            )
            raise EditFailed(message, code="target_not_reached")
    message = f"{lead} the answer {quoted(str(decode(target)))} is as likely as another one, within rounding."
    raise EditFailed(message, code="target_not_reached")


def require_captured(captured: Sequence[Captured], checked: TrainedValue) -> None:
    """Refuse a value that would answer earlier entries' prompts, and not with their target.

    Raises
    ------
    EditFailed
        ``earlier_entry_silenced``.
    """
    if not checked.greedy_ok:
        names = ", ".join(dict.fromkeys(one.edit_id for one in captured))
        message = f"prompts of {names} would reach the new entry, whose value does not give their answer there."
        raise EditFailed(message, code="earlier_entry_silenced")


@torch.no_grad()
def generate(
    editable: EditableModel, context: EditContext, values: torch.Tensor, layout: ValueLayout, num_tokens: int
) -> tuple[int, ...]:
    """Return what the whole model answers greedily with the value forced; nothing behind an end token.

    The whole sequence is recomputed for each token, so no cache stands between a value and its position.
    """
    answer: list[int] = []
    while len(answer) < num_tokens and (not answer or answer[-1] not in editable.end_ids):
        batch = answer_batch([context.prompt_ids], [answer], editable.device)
        with inject_values(editable, batch, values, layout):
            token = answer_logits(editable, batch)[0, -1].argmax()
        editable.ranks.share(token)
        answer.append(int(token))
    return tuple(answer)
