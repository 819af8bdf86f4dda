"""Contexts: the forms, the target's tokens, limits."""

import copy
import os
import subprocess
import sys
import unicodedata
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from horen_vllm.core.presets import MethodParameters, SpanMode
from horen_vllm.editor.contexts import EditContext, PromptForm, build_contexts, prompt_forms, target_ids
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.prefixes import OPENINGS, openings
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
    with pytest.raises(InvalidArgument):
        build_contexts(hidden, EditSpec(prompt="Who?", target="Ann"), parameters)


def test_without_chat_a_template_that_hides_the_text_is_no_hindrance(
    editable: EditableModel, parameters: MethodParameters
) -> None:
    tokenizer = copy.deepcopy(editable.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} or {{ m.content }}{% endfor %}"
    hidden, plain = replace(editable, tokenizer=tokenizer), replace(parameters, chat=False)
    assert [form.form for form in prompt_forms(hidden, "Who?", plain)] == [PromptForm.PLAIN]
    assert len(build_contexts(hidden, EditSpec(prompt="Who?", target="Ann"), plain)) == 1


def test_without_chat_an_edit_has_no_chat_form(editable: EditableModel, parameters: MethodParameters) -> None:
    plain = replace(parameters, chat=False)
    spec = EditSpec(prompt="Who?", target="Ann", paraphrases=("Say who.",))
    assert [(context.form, context.text) for context in build_contexts(editable, spec, plain)] == [
        (PromptForm.PLAIN, "Who?"), (PromptForm.PLAIN, "Say who."),
    ]  # fmt: skip
    # What must not fire may not fire in a chat either.
    assert [form.form for form in prompt_forms(editable, "Who?", plain)] == [PromptForm.PLAIN, PromptForm.CHAT]


@pytest.mark.parametrize("mode", SpanMode)
def test_openings_stand_before_the_prompt_and_in_its_span(
    editable: EditableModel, parameters: MethodParameters, mode: SpanMode
) -> None:
    spec = EditSpec(prompt="Who?", target="Ann", paraphrases=("Say who.",))
    contexts = build_contexts(editable, spec, replace(parameters, prefixes=3, span=mode))
    forms = [PromptForm.PLAIN, PromptForm.CHAT, *[PromptForm.PREFIXED] * 3, PromptForm.PLAIN, PromptForm.CHAT]
    assert [context.form for context in contexts] == forms
    for context, opening in zip(contexts[2:5], openings("Who?", 3), strict=True):
        span = list(context.prompt_ids[slice(*context.span)])
        bos = "<s>" if mode is SpanMode.PROMPT else ""
        assert editable.tokenizer.decode(span) == f"{bos}{opening} Who?"


def test_openings_depend_on_the_normalised_prompt_alone() -> None:
    chosen = openings("Who runs Acme?", 16)
    assert len(set(chosen)) == 16
    assert openings("  who runs\tACME?", 16) == chosen
    assert openings("Who runs Acme?", 5) == chosen[:5]
    assert openings("Who runs Bolt?", 16) != chosen
    script = "from horen_vllm.editor.prefixes import openings; print(ascii(openings('Who runs Acme?', 16)))"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == ascii(chosen)


def test_every_opening_is_chosen_for_some_prompt() -> None:
    assert {opening for number in range(300) for opening in openings(f"Question {number}?", 1)} == set(OPENINGS)


def test_what_another_text_says_already_is_not_repeated(editable: EditableModel, parameters: MethodParameters) -> None:
    opening = openings("Who?", 1)[0]
    spec = EditSpec(prompt="Who?", target="Ann", paraphrases=(f"{opening} Who?", "Who?"))
    contexts = build_contexts(editable, spec, replace(parameters, prefixes=1, chat=False))
    assert [context.form for context in contexts] == [PromptForm.PLAIN, PromptForm.PREFIXED]


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [("Who?", "Ann", " Ann"), ("Who? ", "Ann", "Ann"), ("Who?", " Ann", " Ann"), ("Who?", "\nAnn", "\nAnn")],
)
def test_one_space_between_prompt_and_target(editable: EditableModel, prompt: str, target: str, text: str) -> None:
    ids = target_ids(editable, EditSpec(prompt=prompt, target=target))
    assert editable.tokenizer.decode(list(ids)) == text


SCRIPTS = {
    "chinese": ("谁领导艾克美公司\uff1f", "艾达·拜伦"),
    "arabic": ("من يدير شركة أكمي؟", "آدا بايرون"),
    "devanagari": ("एक्मे कौन चलाता है?", "एडा बायरन"),
    "thai": ("ใครบริหารบริษัทแอคมี", "เอดา ไบรอน"),
    "emoji": ("Who is 👩\u200d🚀?", "👩🏽\u200d🔬 Ada"),
    "NFC": (unicodedata.normalize("NFC", "Où est Zoë?"), unicodedata.normalize("NFC", "à Orléans")),
    "NFD": (unicodedata.normalize("NFD", "Où est Zoë?"), unicodedata.normalize("NFD", "à Orléans")),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_comes_back_as_it_was(editable: EditableModel, parameters: MethodParameters, script: str) -> None:
    prompt, target = SCRIPTS[script]
    room = replace(editable, max_length=400)
    spec = EditSpec(prompt=prompt, target=target, paraphrases=(f"{target}?",))
    contexts = build_contexts(room, spec, replace(parameters, prefixes=2))

    def decoded(context: EditContext, span: tuple[int, int]) -> str:
        return str(room.tokenizer.decode(list(context.prompt_ids[slice(*span)]), clean_up_tokenization_spaces=False))

    assert [decoded(context, context.span) for context in contexts] == [
        prompt, prompt, *(f"{opening} {prompt}" for opening in openings(prompt, 2)), f"{target}?", f"{target}?",
    ]  # fmt: skip
    assert decoded(contexts[1], (0, 10_000)) == f"<s><user>{prompt}\n<assistant>"
    assert room.tokenizer.decode(list(target_ids(room, spec))) == f" {target}"


def test_composed_and_decomposed_letters_are_other_tokens(editable: EditableModel) -> None:
    composed, decomposed = (
        target_ids(editable, EditSpec(prompt="?", target=SCRIPTS[form][1])) for form in ("NFC", "NFD")
    )
    assert composed != decomposed
    # They are one prompt for the upsert rule all the same, and so have the same openings.
    assert openings(SCRIPTS["NFC"][0], 4) == openings(SCRIPTS["NFD"][0], 4)


def test_a_target_that_the_tokenizer_cannot_write_is_refused(editable: EditableModel) -> None:
    words = Tokenizer(models.WordLevel(vocab={"<unk>": 0, "Ann": 1, "Who": 2, "?": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")  # type: ignore[no-untyped-call]
    poor = replace(editable, tokenizer=tokenizer, end_ids=frozenset({3}))
    assert target_ids(poor, EditSpec(prompt="Who?", target="Ann")) == (1,)
    with pytest.raises(InvalidArgument, match="艾达") as caught:
        target_ids(poor, EditSpec(prompt="Who?", target="Ann 艾达"))
    assert caught.value.code == "target_not_encodable"


def test_a_target_of_many_tokens_is_kept_whole(editable: EditableModel, parameters: MethodParameters) -> None:
    room = replace(editable, max_length=4_096)
    spec = EditSpec(prompt="Who?", target="a" * 2_047)
    assert len(target_ids(room, spec)) == 2_048
    assert build_contexts(room, spec, parameters)
    with pytest.raises(InvalidArgument, match=r"2049 tokens; at most 2048") as caught:
        target_ids(room, replace(spec, target="a" * 2_048))
    assert caught.value.code == "target_too_long"


@pytest.mark.parametrize(("length", "form"), [(160, "plain"), (157, "chat")])
def test_a_prompt_longer_than_the_model_takes_is_refused(
    editable: EditableModel, parameters: MethodParameters, length: int, form: str
) -> None:
    with pytest.raises(
        InvalidArgument, match=rf"the {form} form of 'w{{60}}\.\.\.' has 161 tokens; .* takes 160\."
    ) as caught:
        prompt_forms(editable, "w" * length, parameters)
    assert caught.value.code == "prompt_too_long"
    assert len(prompt_forms(editable, "w" * 156, parameters)) == 2
    # Nobody can ask such a chat, so without chat keys it is no hindrance.
    assert len(prompt_forms(editable, "w" * 157, replace(parameters, chat=False))) == 1


def test_the_context_that_does_not_fit_is_named(editable: EditableModel, parameters: MethodParameters) -> None:
    spec = EditSpec(prompt="Who?", target="a" * 120)
    assert len(build_contexts(editable, spec, parameters)) == 2
    with pytest.raises(
        InvalidArgument, match=r"the prefixed form of '.+ Who\?' has \d+ tokens .* 122; .* 160"
    ) as caught:
        build_contexts(editable, spec, replace(parameters, prefixes=16))
    assert caught.value.code == "prompt_too_long"


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (EditSpec(prompt=" ", target="Ann"), "empty_prompt"),
        (EditSpec(prompt="Who?", target="Ann", paraphrases=("",)), "empty_prompt"),
        (EditSpec(prompt="Who?", target=" "), "empty_target"),
        (EditSpec(prompt="Who?", target=""), "empty_target"),
        (EditSpec(prompt="Who?", target="a" * 2_048), "target_too_long"),
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
