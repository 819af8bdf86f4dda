"""Averaged site inputs of one draw of `bench.ablations`, in every way that is compared, from one pass of the model.

Shapes: N texts, B contexts of a pass, S tokens, R ways to average, D width of a layer's input.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

import torch

from bench.ablation_data import Draw
from horen_vllm.core.anchors import Anchor, AnchorTable
from horen_vllm.core.query import query_window
from horen_vllm.editor.calibration.background import builtin_background
from horen_vllm.editor.calibration.calibrated import calibrated_base
from horen_vllm.editor.calibration.samples import subject_anchors
from horen_vllm.editor.contexts import EditContext, prompt_forms
from horen_vllm.editor.forward.capture import captured_inputs
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.spoken import Reader

PLAIN: Final = "plain"
CHAT: Final = "chat"
PERCENTS: Final = tuple(range(10, 101, 10))
"""Pooled shares of the content."""
MASKED: Final = (60, 100)
"""Of these, those that are also averaged without the subject."""
BASE: Final = "content 60"
PAPER: Final = "prompt 60"
"""Like the paper: of the whole prompt, its first special token included."""
LAST: Final = "last"
_WITHOUT_SUBJECT: Final = ("fit_near", "fit_unrelated", "fire", "near", "unrelated")
_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Kind:
    """All texts of one kind.

    Attributes
    ----------
    means
        By form and by way to average: [N, D] float32.
    words
        The words of each text.
    kept_words
        The same without the text's subject.
    named
        [N] bool, whether the subject occurs.
    numbers
        [N] int64, the edit that each text belongs to, or the place of one that belongs to none.
    """

    means: Mapping[tuple[str, str], torch.Tensor]
    words: tuple[tuple[str, ...], ...]
    kept_words: tuple[tuple[str, ...], ...]
    named: torch.Tensor
    numbers: torch.Tensor


Features = Mapping[str, Kind]
"""By name: those of a draw, the edits as entry and rephrase, other (of the same subject), and builtin."""


class Extractor:
    """Runs the model: every layer that could be the site, and every way to average, in one pass."""

    def __init__(self, editable: EditableModel) -> None:
        self._editable = editable
        layers = editable.model.config.get_text_config().num_hidden_layers
        names = [re.sub(r"\.layers\.\d+\.", f".layers.{layer}.", editable.site) for layer in range(layers)]
        self._modules = [editable.model.get_submodule(name) for name in names]
        self._site = names.index(editable.site)
        self._keyings = {at: Keying(replace(calibrated_base(""), window_ratio=at / 100)) for at in PERCENTS}
        self._builtin: Kind | None = None
        self._readers = {at: Reader(editable.tokenizer, self._keyings[at], always=True) for at in MASKED}

    def features(self, drawn: Draw) -> Features:
        """Return everything that a draw's sections need."""
        prompts, rephrases = ([row[key] for row in drawn.edits] for key in ("prompt", "rephrase"))
        subjects = [row["subject"] for row in drawn.edits]
        numbers = [number for number, _ in drawn.same_subject]
        self._builtin = self._builtin or self.kind([prompt.prompt for prompt in builtin_background()])
        return {
            "entry": self.kind(prompts, subjects),
            "rephrase": self.kind(rephrases, subjects),
            "other": self.kind([text for _, text in drawn.same_subject], [subjects[at] for at in numbers], numbers),
            "builtin": self._builtin,
            **{name: self.kind(getattr(drawn, name)) for name in _WITHOUT_SUBJECT},
        }

    def kind(
        self, texts: Sequence[str], subjects: Sequence[str] | None = None, numbers: Sequence[int] | None = None
    ) -> Kind:
        """Return the means of texts; those without their subject only where subjects are given."""
        anchors = [subject_anchors(name) for name in subjects] if subjects is not None else [()] * len(texts)
        forms = [prompt_forms(self._editable, text, self._keyings[60].parameters) for text in texts]
        means = {}
        for at, form in enumerate((PLAIN, CHAT)[: min(map(len, forms))]):
            contexts = [contexts[at] for contexts in forms]
            chosen = [self._chosen(*each, masked=subjects is not None) for each in zip(contexts, anchors, strict=True)]
            means.update({(form, name): found for name, found in self._means(contexts, chosen).items()})
        reader = self._readers[60]
        words = tuple(reader.spoken(contexts[0]).words for contexts in forms)
        kept = tuple(reader.spoken(each[0], names).words for each, names in zip(forms, anchors, strict=True))
        found = [bool(AnchorTable({0: names}).find(said)) for names, said in zip(anchors, words, strict=True)]
        numbered = torch.tensor(range(len(texts)) if numbers is None else numbers, dtype=torch.int64)
        return Kind(means, words, kept, torch.tensor(found, dtype=torch.bool), numbered)

    def _chosen(self, context: EditContext, anchors: tuple[Anchor, ...], *, masked: bool) -> dict[str, list[int]]:
        """Return the prompt positions that each way averages."""
        count = len(context.prompt_ids)
        chosen = {f"content {at}": list(range(*keying.window(context.span))) for at, keying in self._keyings.items()}
        chosen |= {PAPER: list(range(*query_window(count, 0.6))), LAST: [count - 1]}
        for at, reader in self._readers.items() if masked else ():
            ranges = reader.spoken(context, anchors).masked
            out = {place for first, stop in ranges for place in range(first, stop)}
            chosen[f"masked {at}"] = [place for place in chosen[f"content {at}"] if place not in out]
        return chosen

    def _means(
        self, contexts: Sequence[EditContext], chosen: Sequence[dict[str, list[int]]]
    ) -> dict[str, torch.Tensor]:
        names = (*chosen[0], *(f"layer {layer}" for layer in range(len(self._modules))))
        found = {name: torch.empty(len(contexts), self._editable.d_in) for name in names}
        order = sorted(range(len(contexts)), key=lambda at: len(contexts[at].prompt_ids))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            means_RBD = self._pass([contexts[row] for row in rows], [chosen[row] for row in rows])
            for name, means_BD in zip(names, means_RBD, strict=True):
                found[name][rows] = means_BD
        return found

    @torch.no_grad()
    def _pass(self, contexts: Sequence[EditContext], chosen: Sequence[dict[str, list[int]]]) -> list[torch.Tensor]:
        """Return the site's means of every way, then every layer's of the way `BASE`."""
        names, longest = list(chosen[0]), max(len(context.prompt_ids) for context in contexts)
        ids_BS = torch.zeros(len(contexts), longest, dtype=torch.int64)
        weights_BRS = torch.zeros(len(contexts), len(names), longest)
        for row, (context, ways) in enumerate(zip(contexts, chosen, strict=True)):
            ids_BS[row, : len(context.prompt_ids)] = torch.tensor(context.prompt_ids)
            for way, places in enumerate(ways.values()):
                weights_BRS[row, way, places] = 1.0 / len(places)
        with ExitStack() as stack:
            inputs = [stack.enter_context(captured_inputs(module)) for module in self._modules]
            # Right-padded without a mask: the models are causal.
            self._editable.model(input_ids=ids_BS, use_cache=False, logits_to_keep=1)
        layers = [found[0].float() for found in inputs]
        base_B1S = weights_BRS[:, names.index(BASE), None]
        ways_RBD = torch.bmm(weights_BRS, layers[self._site]).unbind(dim=1)
        return [*ways_RBD, *(torch.bmm(base_B1S, layer_BSD)[:, 0] for layer_BSD in layers)]
