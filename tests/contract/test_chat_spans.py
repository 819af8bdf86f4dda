"""The tap on vLLM's own renderer: the span that a server finds is the editor's, for every family of templates."""

import asyncio
import copy
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.core.presets import MethodParameters, SpanMode, preset_parameters
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.editor.contexts import prompt_forms
from horen_vllm.errors import FailedPrecondition, HorenError, InvalidArgument
from horen_vllm.serving.spans import RequestSpan, tap_renderer
from tests.unit import chat_templates
from tests.unit.chat_templates import FAMILIES, byte_level

QUESTION = "Who is the mayor of Springfield?"
CONTENT: MethodParameters = preset_parameters("cosine", "tiny", threshold=0.9)


class Server:
    """vLLM's renderer for one tokenizer and template, with the tap on it."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        from vllm.renderers.hf import HfRenderer

        self.renderer = HfRenderer(config, tokenizer)
        self.span: RequestSpan | None = None
        tap_renderer(self.renderer, lambda: self.span)

    def engine_input(self, body: dict[str, Any], mode: SpanMode = SpanMode.CONTENT) -> Any:
        """Return what the engine would get for a chat request, as vLLM's serving code makes it."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest.model_validate({"model": "m", **body})
        defaults = {
            "tools": [tool.model_dump() for tool in request.tools] if request.tools else None,
            "tokenize": False,
        }
        chat_params = request.build_chat_params(None, "auto").with_defaults(defaults)
        tok_params = request.build_tok_params(self.renderer.model_config)
        self.span = RequestSpan(mode, chat=True)
        _, (found,) = asyncio.run(self.renderer.render_chat_async([request.messages], chat_params, tok_params))
        return found

    def span_text(self, body: dict[str, Any]) -> str:
        """Return the text of the query span of a chat request."""
        found = self.engine_input(body)
        assert self.span is not None
        span = self.span.of(found, self.renderer.get_bos_token_id())
        assert span is not None
        return str(self.renderer.get_tokenizer().decode(found["prompt_token_ids"][span[0] : span[1]]))


@pytest.fixture(scope="module")
def config() -> Any:
    from vllm.config import ModelConfig, VllmConfig

    return VllmConfig(model_config=ModelConfig(model=str(demo_model_dir())))


@pytest.fixture
def server(config: Any) -> Iterator[Any]:
    servers = []

    def start(template: str) -> Server:
        from vllm.tokenizers.hf import get_cached_tokenizer

        tokenizer = copy.deepcopy(byte_level())
        tokenizer.chat_template = template
        # vLLM keeps what it finds out about a template under the tokenizer's name.
        tokenizer.name_or_path = str(hash(template))
        servers.append(Server(config, get_cached_tokenizer(tokenizer)))
        return servers[-1]

    yield start
    for one in servers:
        one.renderer.shutdown()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_span_is_the_editors(server: Any, family: str) -> None:
    one = server(FAMILIES[family])
    editable: Any = SimpleNamespace(tokenizer=one.renderer.get_tokenizer(), has_chat_template=True, max_length=512)
    for text in (QUESTION, f"  {QUESTION}\n\n", "Où est Zoë? 👩\u200d🚀", "[INST] <|im_end|> User: "):
        plain, chat = prompt_forms(editable, text, CONTENT)
        found = one.engine_input({"messages": [user(text)]})
        assert (tuple(found["prompt_token_ids"]), one.span.of(found, None)) == (chat.prompt_ids, chat.span)
        assert "prompt_token_offsets" not in found
        ids = list(plain.prompt_ids)
        assert RequestSpan(SpanMode.CONTENT, chat=False).of({"prompt_token_ids": ids}, ids[0]) == plain.span
        whole = prompt_forms(editable, text, replace(CONTENT, span=SpanMode.PROMPT))
        assert [form.prompt_ids for form in whole] == [plain.prompt_ids, chat.prompt_ids]
        assert [form.span for form in whole] == [(0, len(ids)), (0, len(chat.prompt_ids))]


TOOL = {"type": "function", "function": {"name": "mayor", "parameters": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "mayor", "arguments": '{"of": "Springfield"}'}}


@pytest.mark.parametrize(
    ("template", "more"),
    [
        (chat_templates.CHATML, {"messages": [{"role": "system", "content": QUESTION * 9}, user(QUESTION)]}),
        (chat_templates.CHATML, {"messages": [user([{"type": "text", "text": QUESTION}])]}),
        (chat_templates.PARTS, {"messages": [user([{"type": "text", "text": QUESTION}])]}),
        (
            chat_templates.CHATML,
            {
                "messages": [user(QUESTION), {"role": "assistant", "content": "It is"}],
                "add_generation_prompt": False,
                "continue_final_message": True,
            },
        ),
        (chat_templates.CHATML, {"messages": [user(QUESTION)], "add_generation_prompt": False}),
        (chat_templates.HEADERS, {"messages": [user(QUESTION)], "add_special_tokens": True, "echo": True}),
        (
            chat_templates.THINKING,
            {
                "messages": [
                    user(QUESTION),
                    {"role": "assistant", "tool_calls": [CALL], "reasoning_content": "hm"},
                    {"role": "tool", "tool_call_id": "c1", "content": QUESTION},
                ],
                "tools": [TOOL],
            },
        ),
        (chat_templates.THINKING, {"messages": [user(QUESTION)], "chat_template_kwargs": {"enable_thinking": False}}),
        (chat_templates.DOCUMENTS, {"messages": [user(QUESTION)], "documents": [{"title": "a", "text": QUESTION}]}),
        (
            chat_templates.CHATML,
            {"messages": [user("Hi. " * 90), user(QUESTION)], "truncate_prompt_tokens": 30, "truncation_side": "left"},
        ),
    ],
)
def test_request_fields_that_move_the_content(server: Any, template: str, more: dict[str, Any]) -> None:
    assert server(template).span_text(more) == QUESTION


@pytest.mark.parametrize(
    ("template", "more", "code"),
    [
        (chat_templates.REPEATS, {"messages": [user(QUESTION)]}, "query_span_not_found"),
        (
            "{% if messages[0].content.startswith('horen') %}{{ raise_exception('no') }}{% endif %}x",
            {"messages": [user(QUESTION)]},
            "query_span_not_found",
        ),
        (chat_templates.CHATML, {"messages": [{"role": "system", "content": "x"}]}, "no_user_message"),
        (chat_templates.CHATML, {"messages": [user("\n")]}, "empty_query_span"),
        (
            chat_templates.CHATML,
            {"messages": [user([{"type": "image_url", "image_url": {"url": "http://x/y.png"}}])]},
            "unsupported_content",
        ),
        (chat_templates.CHATML, {"messages": [user(QUESTION)], "chat_template": "x"}, "unsupported_parameter"),
        (
            chat_templates.CHATML,
            {"messages": [user(QUESTION)], "chat_template_kwargs": {"chat_template": "x"}},
            "unsupported_parameter",
        ),
        (
            chat_templates.CHATML,
            {"messages": [user(QUESTION)], "truncate_prompt_tokens": 9, "truncation_side": "left"},
            "query_span_incomplete",
        ),
        (
            chat_templates.CHATML,
            {"messages": [user(QUESTION)], "truncate_prompt_tokens": 14, "truncation_side": "right"},
            "query_span_incomplete",
        ),
    ],
)
def test_refusals_by_name(server: Any, template: str, more: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        server(template).engine_input(more)
    assert caught.value.code == code


def test_a_renderer_that_gives_no_places_is_refused(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = server(chat_templates.CHATML)
    monkeypatch.setattr(one.renderer, "_can_produce_offsets", lambda: False)
    with pytest.raises(FailedPrecondition) as caught:
        one.engine_input({"messages": [user(QUESTION)]})
    assert caught.value.code == "unsupported_tokenizer"


def test_a_chat_that_did_not_come_through_the_renderer_is_refused() -> None:
    span = RequestSpan(SpanMode.CONTENT, chat=True)
    span.keep([1, 2], (0, 1))
    with pytest.raises(HorenError) as caught:
        span.of({"prompt_token_ids": [1, 3]}, None)
    assert caught.value.code == "unsupported_tokenizer"


@pytest.mark.parametrize("span", [None, RequestSpan(SpanMode.PROMPT, chat=True)])
def test_other_requests_are_rendered_as_ever(server: Any, span: RequestSpan | None) -> None:
    one = server(chat_templates.REPEATS)
    found = one.engine_input({"messages": [user(QUESTION)]}, SpanMode.PROMPT)
    assert one.span.of(found, None) is None
    assert "prompt_token_offsets" not in found
