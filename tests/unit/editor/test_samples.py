"""Samples: every form of a text or none, parts that share nothing, and means that masks are left out of."""

from dataclasses import replace

import pytest
import torch

from horen_vllm.core.presets import SpanMode, preset_parameters
from horen_vllm.editor.calibration.background import builtin_background
from horen_vllm.editor.calibration.sampler import Sampler
from horen_vllm.editor.calibration.samples import split, subject_anchors
from horen_vllm.editor.forward.clean import means
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel

CHATS = replace(preset_parameters("cosine", "tiny", 0.5), anchors=True, mask_subject=True)
TEXTS = ["Who leads Acme?", "x" * 500, "Where is Atlantis?", "Hello"]


@pytest.mark.parametrize("shares", [(0.4, 0.4, 0.2), (0.5, 0.5), (1.0,)])
def test_parts_are_disjoint_and_as_large_as_asked(shares: tuple[float, ...]) -> None:
    prompts = builtin_background()[:333]
    parts = split(prompts, shares, 5)
    assert [len(part) for part in parts] == pytest.approx([333 * share for share in shares], abs=1)
    joined = [prompt for part in parts for prompt in part]
    assert len(joined) == len(set(joined)) == 333
    assert parts == split(prompts, shares, 5)
    assert joined != [prompt for part in split(prompts, shares, 6) for prompt in part]


def test_a_text_is_there_in_all_its_forms_or_not_at_all(editable: EditableModel) -> None:
    sample = Sampler(editable).sample(TEXTS, CHATS)
    assert sample.texts.tolist() == [0, 0, 2, 2, 3, 3]
    assert [context.form for context in sample.contexts] == ["plain", "chat"] * 3
    assert sample.contexts[0].words == ("who", "leads", "acme")
    plain = Sampler(editable).sample(TEXTS, replace(CHATS, chat=False))
    assert plain.texts.tolist() == [0, 2, 3]
    assert Sampler(editable).sample(TEXTS[1:2], CHATS).means.shape == (0, editable.d_in)


def test_means_are_those_of_the_clean_pass_with_masks_left_out(editable: EditableModel) -> None:
    sampler = Sampler(editable)
    sample = sampler.masked(TEXTS, ["Acme", None, "Atlantis", "?"], CHATS)
    masks = [bool(context.masked) for context in sample.contexts]
    assert masks == [True] * 4 + [False] * 2
    assert [context.words for context in sample.contexts[::2]] == [("who", "leads"), ("where", "is"), ("hello",)]
    torch.testing.assert_close(sample.means, means(editable, sample.contexts, CHATS))
    bare = sampler.sample(TEXTS, CHATS)
    apart = (sample.means - bare.means).norm(dim=1)
    assert (apart[:4] > 1e-3).all()
    assert (apart[4:] < 1e-5).all()
    keying = Keying(CHATS)
    torch.testing.assert_close(sample.queries(keying).norm(dim=1), torch.ones(6))


def test_what_is_averaged_alike_is_computed_once(editable: EditableModel) -> None:
    sampler = Sampler(editable)
    first = sampler.sample(TEXTS, CHATS)
    assert sampler.sample(TEXTS, replace(CHATS, threshold=0.9, preset="other")) is first
    assert sampler.sample(TEXTS, replace(CHATS, span=SpanMode.PROMPT)) is not first
    assert sampler.sample(TEXTS[:1], CHATS) is not first


def test_a_part_keeps_its_numbers(editable: EditableModel) -> None:
    sample = Sampler(editable).sample(TEXTS, CHATS)
    part = sample.where(sample.texts == 2)
    assert part.texts.tolist() == [2, 2]
    assert part.contexts == sample.contexts[2:4]
    assert torch.equal(part.means, sample.means[2:4])


def test_a_subject_that_cannot_be_looked_for_is_none() -> None:
    assert [subject_anchors(name) for name in (None, "?!", "Acme Works")] == [(), (), (("acme", "works"),)]
