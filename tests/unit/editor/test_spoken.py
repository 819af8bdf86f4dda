"""What a context says: its words, its subject's tokens in every form, and names that cannot be looked for."""

from dataclasses import replace

import pytest
import torch

from horen_vllm.core.anchors import anchor_of
from horen_vllm.core.presets import MethodParameters, SpanMode, preset_parameters
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.editor.contexts import EditContext, prompt_forms
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.spoken import Reader, anchors_of
from horen_vllm.errors import InvalidArgument
from horen_vllm.registry.models import EditSpec

MASKED = replace(
    preset_parameters("cosine", "tiny", 0.5), window_ratio=1.0, span=SpanMode.CONTENT, anchors=True, mask_subject=True
)
TEXT = "Who leads the São Paulo office?"


def said(editable: EditableModel, context: EditContext, ranges: tuple[tuple[int, int], ...]) -> list[str]:
    return [str(editable.tokenizer.decode(list(context.prompt_ids[first:stop]))) for first, stop in ranges]


@pytest.mark.parametrize("name", ["São Paulo", "sao paulo", "SAO\u0303 PAULO"])
def test_the_subjects_tokens_are_left_out_in_every_form(editable: EditableModel, name: str) -> None:
    reader = Reader(editable.tokenizer, Keying(MASKED))
    plain, chat = (reader.spoken(it, [anchor_of(name)], own=True) for it in prompt_forms(editable, TEXT, MASKED))
    assert plain.prompt_ids != chat.prompt_ids
    for context in (plain, chat):
        # The space before a word belongs to none.
        assert said(editable, context, context.masked) == ["São Paulo"]
        assert context.words == ("who", "leads", "the", "office")
        assert context.as_key_context().masked == context.masked


def test_only_the_window_is_masked_and_never_all_of_it(editable: EditableModel) -> None:
    [plain, _] = prompt_forms(editable, "São Paulo is led by", MASKED)
    ending = Reader(editable.tokenizer, Keying(replace(MASKED, window_ratio=0.5)))
    mask = ending.spoken(plain, [anchor_of("São Paulo")])
    assert (mask.masked, mask.words) == ((), ("is", "led", "by"))
    [plain, _] = prompt_forms(editable, "Atlantis", MASKED)
    whole = ending.spoken(plain, [anchor_of("Atlantis")], own=True)
    assert (whole.masked, whole.words) == ((), ("atlantis",))


def test_what_reads_no_text_is_left_as_it_is(editable: EditableModel) -> None:
    [plain, _] = prompt_forms(editable, TEXT, MASKED)
    cosine = Keying(preset_parameters("cosine", "tiny", 0.5))
    assert Reader(editable.tokenizer, cosine).spoken(plain, [("paulo",)]) is plain
    read = Reader(editable.tokenizer, cosine, always=True).spoken(plain, [("paulo",)])
    assert (read.masked, len(read.words)) == ((), 6)
    words = Keying(cosine.parameters, RoutingSpace(torch.zeros(1), torch.ones(1, 1), torch.ones(4), 0.5, 1, 4))
    assert len(Reader(editable.tokenizer, words).spoken(plain).words) == 6


@pytest.mark.parametrize("anchors", [[("rome",)], [("rome",), ("sao", "paulo", "x")]])
def test_a_subject_that_does_not_occur(editable: EditableModel, anchors: list[tuple[str, ...]]) -> None:
    reader = Reader(editable.tokenizer, Keying(MASKED))
    [plain, chat] = prompt_forms(editable, TEXT, MASKED)
    assert reader.spoken(plain, anchors).masked == ()
    with pytest.raises(InvalidArgument, match=r"occurs in the chat form of 'Who leads .*another alias") as caught:
        reader.spoken(chat, anchors, own=True)
    assert caught.value.code == "subject_not_found"
    assert reader.spoken(chat, [*anchors, ("paulo",)], own=True).masked != ()


def parameters_with(*, anchors: bool) -> Keying:
    return Keying(MASKED if anchors else MethodParameters(preset="cosine", threshold=0.5))


def test_an_edits_anchors() -> None:
    spec = EditSpec(prompt="p", target="t", subject="São Paulo", aliases=("SP", "sao  paulo!", "S.P."))
    assert anchors_of(spec, parameters_with(anchors=True)) == (("sao", "paulo"), ("sp",), ("s", "p"))
    assert anchors_of(spec, parameters_with(anchors=False)) == ()
    assert anchors_of(replace(spec, subject=None), parameters_with(anchors=True)) == ()
    with pytest.raises(InvalidArgument) as caught:
        anchors_of(replace(spec, aliases=("?!",)), parameters_with(anchors=True))
    assert caught.value.code == "invalid_anchor"
