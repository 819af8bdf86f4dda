"""Prompts without a server: the same tokens and query span as the editor makes keys of."""

from typing import Any

import pytest

from horen_vllm.core.presets import SpanMode, preset_parameters
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.editor.contexts import PromptForm, prompt_forms
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.errors import HorenError
from horen_vllm.evals.asking.offline_prompts import PromptMaker
from horen_vllm.evals.records import Message, Protocol, Question, QuestionKind


@pytest.fixture(scope="module")
def editable() -> EditableModel:
    return load_editable_model(str(demo_model_dir()))


@pytest.fixture(scope="module")
def maker(editable: EditableModel) -> PromptMaker:
    return PromptMaker(editable.tokenizer)


def question(**what: Any) -> Question:
    return Question(
        question_id="q",
        arm="base",
        model="m",
        checkpoint=0,
        protocol=Protocol.STRICT,
        kind=QuestionKind.EDIT,
        max_tokens=1,
        **what,
    )


@pytest.mark.parametrize("preset", ["cosine", "horen-paper"])
@pytest.mark.parametrize("text", ["Who leads Acme?", "  spaced out \n", "a"])
def test_prompts_are_those_of_the_editor(editable: EditableModel, maker: PromptMaker, preset: str, text: str) -> None:
    parameters = preset_parameters(preset, "demo", 0.9)
    theirs = {form.form: (form.prompt_ids, form.span) for form in prompt_forms(editable, text, parameters)}
    chat = question(messages=(Message(role="user", content=text),))
    assert maker.prompt(question(prompt=text), parameters.span) == theirs[PromptForm.PLAIN]
    assert maker.prompt(chat, parameters.span) == theirs[PromptForm.CHAT]


def test_of_a_conversation_the_last_user_message_is_the_span(maker: PromptMaker, editable: EditableModel) -> None:
    turns = (("system", "Be brief."), ("user", "Who leads Acme?"), ("assistant", "Mira"), ("user", "Where is Oslo?"))
    messages = tuple(Message(role=role, content=content) for role, content in turns)
    ids, (first, stop) = maker.prompt(question(messages=messages), SpanMode.CONTENT)
    assert editable.tokenizer.decode(list(ids[first:stop])) == "Where is Oslo?"
    assert maker.prompt(question(messages=messages), SpanMode.PROMPT) == (ids, (0, len(ids)))


@pytest.mark.parametrize(
    "what",
    [
        {"prompt": ""},
        {"messages": (Message(role="assistant", content="Hello"),)},
        {"messages": (Message(role="user", content=" "),)},
    ],
)
def test_a_question_without_a_query_span_is_refused(maker: PromptMaker, what: dict[str, Any]) -> None:
    with pytest.raises(HorenError) as caught:
        maker.prompt(question(**what), SpanMode.CONTENT)
    assert caught.value.code == "question_refused"


def test_a_model_without_a_chat_template_takes_no_chat() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model_dir())
    tokenizer.chat_template = None
    with pytest.raises(HorenError) as caught:
        PromptMaker(tokenizer).prompt(question(messages=(Message(role="user", content="Hi"),)), SpanMode.PROMPT)
    assert caught.value.code == "question_refused"


def test_text_is_what_a_stream_of_the_tokens_reads_and_has_no_special_tokens(
    maker: PromptMaker, editable: EditableModel
) -> None:
    answer = editable.tokenizer.encode(" New Haven \u00e9t\u00e9", add_special_tokens=False)
    assert maker.text([1, 2, 3], answer) == " New Haven \u00e9t\u00e9"
    assert maker.text([1, 2, 3], [*answer, editable.end_id]) == " New Haven \u00e9t\u00e9"
    assert maker.text([1, 2, 3], []) == ""
