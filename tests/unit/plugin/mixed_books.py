"""Codebooks of every kind on one rank, and requests of all of them in one step."""

from typing import Any

import torch
from torch.nn import functional as F

from horen_vllm.core.euclid import lifted_key
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import D_IN, D_OUT, Numbered, make_codebooks, make_entry, publish, update_of
from tests.unit.plugin.spoken import WORDS, ids_of, spoken_rule, spoken_texts

PROMPT = 9
NAMES = ("ann", "bo", "cy", "ann bo", "the king")
GRACE = MethodParameters(
    preset="grace", threshold=0.0, window_ratio=1e-6, radius=2.0, value_mode=ValueMode.REPLACE, anchors=True
)
KINDS = ("masked", "refined", "floors", "spoken", "twice", "grace", "empty", "gone")
"""Identity space with anchors and masks, with refinement, with floors; a space with words, and a second codebook in
it; GRACE; one without entries; one that is not here. Three routing spaces: the identity, the fitted one, GRACE's."""
SPACES = 3


def make_space() -> RoutingSpace:
    generator = torch.Generator().manual_seed(1)
    mean, matrix = torch.randn(D_IN, generator=generator) * 0.3, torch.randn(4, D_IN, generator=generator)
    return RoutingSpace(mean, matrix, torch.rand(97, generator=generator) + 0.1, 0.3, 2, 8)


def rule_of(kind: str) -> MethodParameters:
    """Return a codebook's parameters."""
    spoken = {"mask_subject": True, "space": "d" * 64, "threshold": 0.25, "anchored_threshold": 0.15}
    rules = {
        "masked": spoken_rule(mask_subject=True, threshold=0.5, anchored_threshold=0.3),
        "refined": spoken_rule(steps=2, gamma=0.2, threshold=0.6, anchored_threshold=0.4),
        "floors": spoken_rule(threshold=0.3, anchored_threshold=0.2),
        "spoken": spoken_rule(**spoken),
        "twice": spoken_rule(**spoken, steps=1, gamma=0.1),
        "grace": GRACE,
    }
    return rules.get(kind, spoken_rule(threshold=0.1))


def entries_of(kind: str, number: int) -> list[Numbered]:
    """Return a codebook's entries, every other one anchored."""
    generator = torch.Generator().manual_seed(number)
    width = 4 + 8 if kind in ("spoken", "twice") else D_IN
    made: list[Numbered] = []
    for index in range(0 if kind == "empty" else 5 + number):
        keys = torch.randn(2, width, generator=generator)
        keys = lifted_key(keys) if kind == "grace" else F.normalize(keys, dim=1)
        shape: dict[str, Any] = {"span": 2, "mode": ValueMode.ANSWER}
        if kind == "grace":
            shape = {"span": 1, "mode": ValueMode.REPLACE, "radius": 0.5 + index}
        elif index % 2:
            shape["anchors"] = (NAMES[index % len(NAMES)],)
        if kind == "floors" and index % 3 == 0:
            shape["floor"] = 0.5
        made.append((index + 1, make_entry(f"{kind}-{index}", keys=keys, seed=100 * number + index, **shape)))
    return made


def make_site(slots: int, *, first_scores: bool = False) -> EditSite:
    """Return a site that serves codebooks of all kinds."""
    codebooks = make_codebooks(512, 256, texts=spoken_texts())
    for number, kind in enumerate(KINDS[:-1]):
        space = make_space() if kind in ("spoken", "twice") else None
        publish(codebooks, update_of(kind, 3 + number, entries_of(kind, number), rule=rule_of(kind), space=space))
    positions = torch.arange(PROMPT).repeat(slots)
    return EditSite(codebooks, num_slots=slots, positions=positions, first_scores=first_scores)


def ask(
    site: EditSite, requests: list[int], inputs: torch.Tensor, explain: int = 0
) -> tuple[dict[str, dict[str, Any]], torch.Tensor]:
    """Route requests in one step, each of the codebook that its number names; return reports and outputs."""
    rows = []
    for place, number in enumerate(requests):
        generator = torch.Generator().manual_seed(number)
        ids = ids_of([WORDS[int(pick)] for pick in torch.randint(0, len(WORDS), (PROMPT,), generator=generator)])
        kind = KINDS[number % len(KINDS)]
        tag = RequestTag(kind, GRACE.window_ratio if kind == "grace" else 0.8, explain=explain)
        rows.append(BatchRow(str(number), tag, place * PROMPT, PROMPT, 0, PROMPT, ids))
    site.begin_step(rows)
    outputs = torch.ones(len(requests) * PROMPT, D_OUT)
    site.run(inputs[requests].flatten(0, 1), outputs)
    return site.take_decisions().reports(), outputs.view(len(requests), PROMPT, D_OUT)


def inputs_of(count: int) -> torch.Tensor:
    """Return the site's inputs of each request [count, PROMPT, D_IN]."""
    return torch.randn(count, PROMPT, D_IN, generator=torch.Generator().manual_seed(11))
