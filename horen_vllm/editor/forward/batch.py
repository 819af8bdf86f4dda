"""Batches of prompts with one common answer, right-padded, and the logits that predict the answer.

Does not know values; `inject` adds them while a batch runs.
Shapes: B contexts, S padded length, A answer tokens fed, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from horen_vllm.editor.loading.model import EditableModel

_PADDING: Final = 0
"""Any token will do: the models are causal, so what stands behind a row's end cannot reach it."""


@dataclass(frozen=True, slots=True)
class AnswerBatch:
    """Prompts, each followed by as many answer tokens as the others, without an attention mask.

    Attributes
    ----------
    input_ids
        [B, S] int64.
    offsets
        [B, S] int64 answer positions ``j = position - (P - 1)``; 0 at each prompt's last token.
    num_answer_tokens
        A: answer tokens that are fed behind every prompt.
    """

    input_ids: torch.Tensor
    offsets: torch.Tensor
    num_answer_tokens: int


def answer_batch(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], device: torch.device
) -> AnswerBatch:
    """Return the batch of each prompt followed by its answer; all answers have the same length."""
    num_answer_tokens = len(answers[0])
    length = max(map(len, prompts)) + num_answer_tokens
    input_ids = torch.full((len(prompts), length), _PADDING, dtype=torch.int64)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens = [*prompt, *answer]
        input_ids[row, : len(tokens)] = torch.tensor(tokens)
    last_B1 = torch.tensor([[len(prompt) - 1] for prompt in prompts])
    offsets = torch.arange(length)[None] - last_B1
    return AnswerBatch(input_ids.to(device), offsets.to(device), num_answer_tokens)


def answer_logits(editable: EditableModel, batch: AnswerBatch) -> torch.Tensor:
    """Return the logits [B, A + 1, V] float32 at the answer positions 0..A of every row."""
    length = batch.input_ids.shape[1]
    starts_B = -batch.offsets[:, 0]
    kept = length - int(starts_B.min())
    output = editable.model(input_ids=batch.input_ids, use_cache=False, logits_to_keep=kept)
    answer_A = torch.arange(batch.num_answer_tokens + 1, device=starts_B.device)
    columns_BA = starts_B[:, None] - (length - kept) + answer_A
    rows_B1 = torch.arange(len(starts_B), device=starts_B.device)[:, None]
    logits: torch.Tensor = output.logits[rows_B1, columns_BA].float()
    return logits
