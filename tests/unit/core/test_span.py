"""The query span: the last user message's content in every family of templates, whatever stands around it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from horen_vllm.core.span import (
    content_marks,
    content_range,
    content_tokens,
    copied_messages,
    marked_messages,
    text_span,
)
from horen_vllm.errors import InvalidArgument
from tests.unit import chat_templates
from tests.unit.chat_templates import FAMILIES, MARKERS, byte_level, metaspace

Messages = Sequence[dict[str, Any]]
TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {"bytes": byte_level, "metaspace": metaspace}
QUESTION = "Who is the mayor of Springfield?"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def span_of(
    tokenizer: PreTrainedTokenizerFast, template: str, messages: Messages, **arguments: Any
) -> tuple[list[int], tuple[int, int]]:
    """Return token ids and span as editor and server find them."""
    options = {"chat_template": template, "tokenize": False, "add_generation_prompt": True, **arguments}

    def render(chat: Messages) -> str:
        return str(tokenizer.apply_chat_template(list(chat), **options))

    copies = copied_messages(messages)
    rendered = render(copies)
    marks = content_marks(rendered)
    chars = content_range(rendered, render(marked_messages(copies, marks)), marks)
    encoding = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoding["input_ids"]), content_tokens(encoding["offset_mapping"], chars)


def span_text(tokenizer: PreTrainedTokenizerFast, template: str, messages: Messages, **arguments: Any) -> str:
    ids, (start, stop) = span_of(tokenizer, template, messages, **arguments)
    return str(tokenizer.decode(ids[start:stop]))


def refusal(template: str, messages: Messages) -> str:
    with pytest.raises(InvalidArgument) as caught:
        span_of(byte_level(), template, messages)
    return caught.value.code


contents = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from([*MARKERS, "[INST]", "[/INST]", "<<SYS>>", "User: ", "/no_think", "<tool_response>"]),
        st.sampled_from([" ", "\n", "\n\n", "\t", "é", "e\u0301", "\u200d", "👩\u200d🚀", "mayor", "\u00a0"]),
    ),
    min_size=1,
    max_size=6,
).map("".join)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("family", FAMILIES)
@given(content=contents.filter(lambda text: bool(text.strip())))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_span_is_the_content_and_at_most_the_tokens_merged_into_it(kind: str, family: str, content: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids, (start, stop) = span_of(tokenizer, FAMILIES[family], [user(content)])
    inner = tokenizer.backend_tokenizer.normalizer.normalize_str(content.strip()).replace("▁", " ")
    text = tokenizer.decode(ids[start:stop])
    assert inner in text
    edges = len(tokenizer.decode(ids[start : start + 1])) + len(tokenizer.decode(ids[stop - 1 : stop])) - 2
    assert len(text) - len(inner) <= max(edges, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_white_space_at_the_contents_edges_is_no_part_of_the_span(family: str) -> None:
    assert span_text(byte_level(), FAMILIES[family], [user(f"\n {QUESTION}  \n")]).strip() == QUESTION


BEFORE: dict[str, list[dict[str, Any]]] = {
    "a system prompt": [{"role": "system", "content": f"Answer {QUESTION} and others. " * 20}],
    "the same question before": [user(QUESTION), assistant(QUESTION)],
    "thinking": [user("Hi."), assistant("<think>\nhm\n</think>\n\nHello.", reasoning_content="hm")],
}


WITHOUT_SYSTEM = {"turns", "instruct"}
# In this family the first token differs: see the test of merges below.
MERGED_SYSTEM = {"system in first turn"}
AFTER = [
    (family, before)
    for family in FAMILIES
    for before in BEFORE
    if before != "a system prompt" or family not in WITHOUT_SYSTEM | MERGED_SYSTEM
]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(("family", "before"), AFTER)
def test_what_stands_before_does_not_change_the_spans_tokens(kind: str, family: str, before: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    alone, (start, stop) = span_of(tokenizer, FAMILIES[family], [user(QUESTION)])
    ids, (first, last) = span_of(tokenizer, FAMILIES[family], [*BEFORE[before], user(QUESTION)])
    assert ids[first:last] == alone[start:stop]


def test_a_space_of_the_template_that_merges_into_the_first_word_is_all_that_differs() -> None:
    alone, (start, stop) = span_of(byte_level(), chat_templates.SYSTEM_IN_FIRST_TURN, [user(QUESTION)])
    messages = [*BEFORE["a system prompt"], user(QUESTION)]
    ids, (first, last) = span_of(byte_level(), chat_templates.SYSTEM_IN_FIRST_TURN, messages)
    decode = byte_level().decode
    assert (decode(alone[start:stop]), decode(ids[first:last])) == (f" {QUESTION}", QUESTION)
    assert ids[last - 5 : last] == alone[stop - 5 : stop]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_is_already_begun(family: str) -> None:
    messages = [user(QUESTION), assistant("The mayor is")]
    text = span_text(byte_level(), FAMILIES[family], messages, add_generation_prompt=False, continue_final_message=True)
    assert QUESTION in text
    assert "The mayor is" not in text


@pytest.mark.parametrize("continued", [False, True])
def test_without_a_generation_prompt_and_with_a_continued_question(continued: bool) -> None:
    arguments = {"add_generation_prompt": False, "continue_final_message": continued}
    assert span_text(byte_level(), chat_templates.CHATML, [user(QUESTION)], **arguments) == QUESTION


def test_tool_results_after_the_question_are_not_it() -> None:
    call = {"type": "function", "function": {"name": "mayor", "arguments": {}}}
    messages = [
        user(QUESTION),
        assistant("", tool_calls=[call], reasoning_content="I look it up."),
        {"role": "tool", "content": f"{QUESTION} Ann Lee"},
    ]
    ids, (start, stop) = span_of(byte_level(), chat_templates.THINKING, messages, tools=[call])
    assert byte_level().decode(ids[start:stop]) == QUESTION
    assert "I look it up." in byte_level().decode(ids[stop:])


@pytest.mark.parametrize("thinking", [False, True])
def test_template_arguments(thinking: bool) -> None:
    messages = [user("Hi."), assistant("Hello."), user(QUESTION)]
    assert span_text(byte_level(), chat_templates.THINKING, messages, enable_thinking=thinking) == QUESTION


def test_documents() -> None:
    documents = [{"title": QUESTION, "text": QUESTION}]
    ids, (start, stop) = span_of(byte_level(), chat_templates.DOCUMENTS, [user(QUESTION)], documents=documents)
    assert byte_level().decode(ids[start:stop]) == QUESTION
    assert QUESTION not in byte_level().decode(ids[stop:])


def test_of_several_questions_in_a_row_the_last() -> None:
    messages = [user("Where does Bob live?"), user(QUESTION)]
    assert span_text(byte_level(), chat_templates.MERGES_TURNS, messages) == QUESTION


@pytest.mark.parametrize(
    "parts", [["Who is", " the mayor?"], [" Who is", "", "the mayor? "], ["\n", "Who is the mayor?"], ["Who?", " "]]
)
def test_a_content_of_several_parts(parts: list[str]) -> None:
    content = iter([{"type": "text", "text": part} for part in parts])
    text = span_text(byte_level(), chat_templates.PARTS, [user(content)])
    assert text == "".join(part.strip() for part in parts)


def test_a_template_that_looks_into_the_content() -> None:
    assert span_text(byte_level(), chat_templates.SWITCHES, [user("Who? /no_think")]) == "Who? /no_think"


@pytest.mark.parametrize(
    ("template", "messages", "code"),
    [
        (chat_templates.REPEATS, [user(QUESTION)], "query_span_not_found"),
        (chat_templates.DROPS, [user("Hi."), assistant("Yes?"), user(QUESTION)], "query_span_not_found"),
        (chat_templates.SHORTENS, [user(QUESTION * 3)], "query_span_not_found"),
        (chat_templates.GREETS, [user("Hello there.")], "query_span_not_found"),
        (chat_templates.CHATML, [assistant("Hi.")], "no_user_message"),
        (chat_templates.CHATML, [], "no_user_message"),
        (chat_templates.CHATML, [user(" \n")], "empty_query_span"),
        (chat_templates.CHATML, [user("")], "empty_query_span"),
        (chat_templates.CHATML, [user(None)], "empty_query_span"),
        (chat_templates.PARTS, [user([])], "empty_query_span"),
        (chat_templates.PARTS, [user([{"type": "image_url", "image_url": {"url": "x"}}])], "unsupported_content"),
    ],
)
def test_refusals(template: str, messages: Messages, code: str) -> None:
    if code == "no_user_message" and not messages:
        with pytest.raises(InvalidArgument) as caught:
            copied_messages(messages)
        assert caught.value.code == code
    else:
        assert refusal(template, messages) == code


@pytest.mark.parametrize("offsets", [[(0, 2), (2, 4)], [(3, 8)], [], [(0, 0), (8, 9)]])
def test_a_truncated_content_is_refused(offsets: list[tuple[int, int]]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        content_tokens(offsets, (2, 8), truncated=True)
    assert caught.value.code == "query_span_incomplete"


@pytest.mark.parametrize(
    ("offsets", "span"),
    [
        ([(0, 0), (0, 2), (2, 5), (5, 8), (8, 9)], (2, 4)),
        ([(0, 3), (3, 5), (5, 9)], (0, 3)),
        ([(0, 2), (2, 3), (2, 3), (3, 8), (8, 8)], (1, 4)),
    ],
    ids=["at the edges", "merged across both edges", "several tokens of one character"],
)
def test_a_token_is_inside_when_it_shares_a_character(offsets: list[tuple[int, int]], span: tuple[int, int]) -> None:
    assert content_tokens(offsets, (2, 8)) == span


@pytest.mark.parametrize(
    ("ids", "bos", "span"),
    [([1, 5, 6], 1, (1, 3)), ([1, 1, 5, 1], 1, (2, 4)), ([5, 6], 1, (0, 2)), ([5], None, (0, 1))],
)
def test_without_a_template_all_but_leading_bos(ids: list[int], bos: int | None, span: tuple[int, int]) -> None:
    assert text_span(ids, bos) == span


@pytest.mark.parametrize("ids", [[], [1], [1, 1]])
def test_nothing_but_bos_is_refused(ids: list[int]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        text_span(ids, 1)
    assert caught.value.code == "empty_query_span"
