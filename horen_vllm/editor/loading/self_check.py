"""The check, when a worker starts, that the layers after the site give alone what the whole model gives.

Why: `editor.forward.tail` knows how the supported architectures are built; another release, or a model with
code of its own, may do more between the site and the logits. Values would then be trained for another model.
Shapes: A answer positions, V vocabulary.
"""

from typing import Any, Final

import structlog
import torch

from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.forward.batch import answer_batch, answer_logits
from horen_vllm.editor.forward.clean import CleanRow, Passage, clean_pass, stack_clean
from horen_vllm.editor.forward.inject import inject_values
from horen_vllm.editor.forward.tail import Tail, tail_logits, tail_of
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.training.adaptor import ValueLayout, added
from horen_vllm.errors import FailedPrecondition

TOLERANCES: Final = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}
"""Largest difference of logits that counts as rounding, in standard deviations of a position's logits."""
_PROMPTS: Final = (1, 7, 40)
"""Tokens in the prompts that are tried."""
_LONGEST_WINDOW: Final = 256
"""A prompt longer than a sliding window is tried, too, up to windows of this many tokens."""
_ANSWER: Final = 4
_MEMORY_BYTES: Final = 64 * 2**20
_PARAMETERS: Final = MethodParameters(preset="self-check", threshold=1.0)


def check_tail(editable: EditableModel) -> None:
    """Compare the tail with the whole model on random prompts, with a random value at the site.

    A prompt counts by the median of its answer positions: where experts are chosen, rounding may choose another one
    at a position.

    Raises
    ------
    FailedPrecondition
        ``unsupported_architecture``, when they differ by more than the weights' type explains (`TOLERANCES`);
        ``model_too_large``, when there is no memory for the prompts.
    """
    tail = tail_of(editable)
    passages = _passages(editable, tail)
    dtype = editable.module.weight.dtype
    rows = clean_pass(editable, passages, _PARAMETERS, MemoryLimit(_MEMORY_BYTES, editable.ranks))
    differences = {}
    for passage, row in zip(passages, rows, strict=True):
        if row is None:
            message = f"a prompt of {len(passage.prompt_ids)} tokens does not fit into the memory of {editable.device}."
            raise FailedPrecondition(message, code="model_too_large")
        differences[len(passage.prompt_ids)] = _difference(editable, tail, passage, row)
    structlog.get_logger().info("tail checked", dtype=str(dtype), differences=differences)
    for length, difference in differences.items():
        # Not ">": a difference that is no number is one, too.
        if not difference <= TOLERANCES[dtype]:
            message = (
                f"the layers after {editable.site} do not give what the whole model gives: the logits behind a prompt "
                f"of {length} tokens differ by {difference:.2g} standard deviations, {TOLERANCES[dtype]:g} is allowed "
                f"in {dtype}."
            )
            raise FailedPrecondition(message, code="unsupported_architecture")


def _passages(editable: EditableModel, tail: Tail) -> list[Passage]:
    config: Any = editable.model.config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    windows = {window + 8 for window in tail.windows if window is not None and window <= _LONGEST_WINDOW}
    lengths = [length for length in sorted({*_PROMPTS, *windows}) if length + _ANSWER <= editable.max_length]

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(config.vocab_size, (count,), generator=generator).tolist())

    return [Passage(tokens(length), (0, length), tokens(_ANSWER)) for length in lengths]


@torch.no_grad()
def _difference(editable: EditableModel, tail: Tail, passage: Passage, row: CleanRow) -> float:
    """Return the median over positions of the logits' root mean square difference, in their standard deviations."""
    layout = ValueLayout(span=_ANSWER, chunk=1, rank=0)
    value = torch.randn(_ANSWER, editable.d_out, generator=torch.Generator().manual_seed(1)).to(editable.device)
    value *= row.site_output.float().square().mean().sqrt()
    answers = answer_batch([passage.prompt_ids], [passage.labels[:-1]], editable.device)
    with inject_values(editable, answers, value, layout):
        expected_AV = answer_logits(editable, answers)[0]
    batch = stack_clean(tail, [row])
    owners, index = torch.zeros(1, dtype=torch.int64), layout.index(_ANSWER)[None]
    written = added(value[None], owners.to(editable.device), index.to(editable.device), batch.site_output, layout.rank)
    found_AV = tail_logits(tail, batch, written).float()
    error_A = (found_AV - expected_AV).square().mean(dim=-1).sqrt() / expected_AV.std(dim=-1)
    return float(error_A.median())
