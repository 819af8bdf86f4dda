"""Calibration: the threshold c at which un-edited facts fire as rarely as asked, for a codebook of N keys.

The best of N scores grows with N, so c follows the codebook's size and must be fitted anew when it grows much.
Identity routing space for now; scores are refined where the parameters refine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.core.match import KeyTable, route
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.contexts import prompt_forms
from horen_vllm.editor.forward.clean import queries
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.errors import InvalidArgument

_HIGHEST: Final = 0.9998
"""An entry's own prompt must still match: its fp32 cosine with itself may be a little below 1."""
_MAX_CODEBOOKS: Final = 8
"""Pseudo-codebooks drawn; more only repeat the same prompts."""


@dataclass(frozen=True, slots=True)
class FittedThreshold:
    """A threshold and how it was measured."""

    threshold: float
    """c: an entry matches when its score is greater."""
    rate: float
    """Share of the measured queries that fire at `threshold`; above the target only when c reached its cap."""
    n: int
    """Queries measured."""


def fit_threshold(
    editable: EditableModel,
    background_prompts: Sequence[str],
    parameters: MethodParameters,
    *,
    num_keys: int,
    false_fire_rate: float,
    seed: int,
) -> FittedThreshold:
    """Return the lowest threshold at which background queries fire at most at the given rate.

    Disjoint pseudo-codebooks of `num_keys` keys are drawn from the background; each is asked every prompt that
    it does not hold, in every form, and c is the quantile of the best scores.

    Parameters
    ----------
    editable
        The base model.
    background_prompts
        Prompts of facts that will be neither edited nor reported on, of the kind that users ask; each counts
        once.
    parameters
        Query span, window ratio and refinement; their threshold is not used.
    num_keys
        N: keys of the codebook to calibrate for; an entry has one for each form of its prompt.
    false_fire_rate
        Highest accepted share of un-edited queries that match some entry, in (0, 1).
    seed
        Of the draw.

    Raises
    ------
    InvalidArgument
        ``invalid_parameter``; ``too_few_background_prompts``, when a pseudo-codebook leaves fewer queries than
        the rate can be measured with.
    """
    if num_keys < 1 or not 0.0 < false_fire_rate < 1.0:
        message = f"num_keys = {num_keys} or false_fire_rate = {false_fire_rate} is outside its range."
        raise InvalidArgument(message, code="invalid_parameter")
    queries_PFD = _background(editable, background_prompts, parameters)
    scores = _best_scores(queries_PFD, parameters, num_keys, false_fire_rate, seed)
    descending = scores.sort(descending=True).values
    # At most this many scores may be strictly greater than c.
    allowed = int(false_fire_rate * len(scores))
    threshold = min(float(descending[allowed]), _HIGHEST)
    fired = int((scores > threshold).sum())
    return FittedThreshold(threshold, fired / len(scores), len(scores))


def _background(editable: EditableModel, prompts: Sequence[str], parameters: MethodParameters) -> torch.Tensor:
    """Return the queries [P prompts, F forms, D] of the distinct prompts."""
    distinct = {normalise_prompt(text): text for text in prompts}
    forms = [prompt_forms(editable, text, parameters) for text in distinct.values()]
    if not forms:
        return torch.empty(0, 1, editable.d_in)
    flat = queries(editable, [context for contexts in forms for context in contexts], parameters)
    return flat.view(len(forms), -1, editable.d_in)


def _best_scores(
    queries_PFD: torch.Tensor, parameters: MethodParameters, num_keys: int, rate: float, seed: int
) -> torch.Tensor:
    """Return the best score of every query that is outside its pseudo-codebook, over all of them."""
    num_prompts, num_forms, _ = queries_PFD.shape
    size = -(-num_keys // num_forms)
    if (num_prompts - size) * num_forms * rate < 1.0:
        message = (
            f"{num_prompts} distinct background prompts are too few for {num_keys} keys at a false-fire rate of "
            f"{rate}: give at least {size + int(1 / (rate * num_forms)) + 1}."
        )
        raise InvalidArgument(message, code="too_few_background_prompts")
    order = torch.randperm(num_prompts, generator=torch.Generator().manual_seed(seed))
    scores = []
    for number in range(min(num_prompts // size, _MAX_CODEBOOKS)):
        chunk = order[number * size : (number + 1) * size]
        outside = torch.ones(num_prompts, dtype=torch.bool)
        outside[chunk] = False
        table = _pseudo_codebook(queries_PFD[chunk], num_keys)
        scores += [decision.score for decision in route(queries_PFD[outside].flatten(0, 1), table, parameters)]
    return torch.tensor(scores)


def _pseudo_codebook(queries_EFD: torch.Tensor, num_keys: int) -> KeyTable:
    num_entries, num_forms, _ = queries_EFD.shape
    owners = torch.arange(num_entries).repeat_interleave(num_forms)
    return KeyTable(queries_EFD.flatten(0, 1)[:num_keys], owners[:num_keys], torch.arange(num_entries))
