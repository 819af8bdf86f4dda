"""Contexts: the two forms, the target's tokens, limits."""

import copy
from dataclasses import replace

import pytest

from horen_vllm.core.presets import MethodParameters, SpanMode
from horen_vllm.editor.contexts import PromptForm, build_contexts, prompt_forms, target_ids
from horen_vllm.editor.model import EditableModel
from horen_vllm.errors import InvalidArgument
from horen_vllm.registry.models import EditSpec


def test_prompt_and_paraphrases_in_both_forms(editable: EditableModel, parameters: MethodParameters) -> None:
    spec = EditSpec(prompt="Who?", target="Ann", paraphrases=("Say who.", "Who?"))
    contexts = build_contexts(editable, spec, parameters)
    forms = [(context.form, context.text) for context in contexts]
    plain, chat = PromptForm.PLAIN, PromptForm.CHAT
    assert forms == [(plain, "Who?"), (chat, "Who?"), (plain, "Say who."), (chat, "Say who.")]
    decode = editable.tokenizer.decode
    assert decode(list(contexts[0].prompt_ids)) == "<s>Who?"
    assert decode(list(contexts[1].prompt_ids)) == "<s><user>Who?\n<assistant>"


@pytest.mark.parametrize(
    ("mode", "texts"),
    [(SpanMode.CONTENT, [" Who? ", "Who?"]), (SpanMode.PROMPT, ["<s> Who? ", "<s><user> Who? \n<assistant>"])],
)
def test_spans(editable: EditableModel, parameters: MethodParameters, mode: SpanMode, texts: list[str]) -> None:
    forms = prompt_forms(editable, " Who? ", replace(parameters, span=mode))
    decode = editable.tokenizer.decode
    assert [decode(list(form.prompt_ids[slice(*form.span)])) for form in forms] == texts


def test_a_template_that_hides_the_text_is_refused(editable: EditableModel, parameters: MethodParameters) -> None:
    tokenizer = copy.deepcopy(editable.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} or {{ m.content }}{% endfor %}"
    hidden = replace(editable, tokenizer=tokenizer)
    with pytest.raises(InvalidArgument) as caught:
        prompt_forms(hidden, "Who?", parameters)
    assert caught.value.code == "query_span_not_found"
    assert len(prompt_forms(hidden, "Who?", replace(parameters, span=SpanMode.PROMPT))) == 2


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [("Who?", "Ann", " Ann"), ("Who? ", "Ann", "Ann"), ("Who?", " Ann", " Ann"), ("Who?", "\nAnn", "\nAnn")],
)
def test_one_space_between_prompt_and_target(editable: EditableModel, prompt: str, target: str, text: str) -> None:
    ids = target_ids(editable, EditSpec(prompt=prompt, target=target))
    assert editable.tokenizer.decode(list(ids)) == text


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (EditSpec(prompt=" ", target="Ann"), "empty_prompt"),
        (EditSpec(prompt="Who?", target="Ann", paraphrases=("",)), "empty_prompt"),
        (EditSpec(prompt="Who?", target=" "), "empty_target"),
        (EditSpec(prompt="Who?", target=""), "empty_target"),
        (EditSpec(prompt="Who?", target="a" * 256), "target_too_long"),
        (EditSpec(prompt="w" * 155, target="Ann"), "prompt_too_long"),
        (EditSpec(prompt="Who?", target="Ann", paraphrases=("w" * 155,)), "prompt_too_long"),
    ],
)
def test_refusals(editable: EditableModel, parameters: MethodParameters, spec: EditSpec, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build_contexts(editable, spec, parameters)
    assert caught.value.code == code


def test_the_longest_prompt_fits_exactly(editable: EditableModel, parameters: MethodParameters) -> None:
    # The chat form adds 4 tokens to the text; 4 for " Ann" and 1 for the end make 160.
    spec = EditSpec(prompt="w" * 151, target="Ann")
    assert len(build_contexts(editable, spec, parameters)[1].prompt_ids) == 155
    spec = EditSpec(prompt="w" * 152, target="Ann")
    with pytest.raises(InvalidArgument):
        build_contexts(editable, spec, parameters)
    assert build_contexts(editable, spec, replace(parameters, train_end=False))
