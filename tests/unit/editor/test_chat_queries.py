"""What the query span is for: a question finds its key behind text that the edit has never seen."""

from collections.abc import Sequence

import pytest

from horen_vllm.core.presets import SpanMode, preset_parameters
from horen_vllm.core.span import content_marks, content_range, content_tokens, marked_messages
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.demo.world import build_world
from horen_vllm.editor.contexts import EditContext, PromptForm, prompt_forms
from horen_vllm.editor.forward.clean import queries
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel, load_editable_model

Messages = Sequence[dict[str, str]]
SYSTEM = {"role": "system", "content": "You are a careful assistant. Answer with the name only, please. " * 2}
TURNS = [{"role": "user", "content": "Who lives here?"}, {"role": "assistant", "content": "Unknown"}]


@pytest.fixture(scope="module")
def demo() -> EditableModel:
    return load_editable_model(str(demo_model_dir()))


@pytest.fixture(scope="module")
def questions() -> list[str]:
    world = build_world()
    return [world.prompt(fact, world.trained_wordings(fact)[0]) for fact in world.facts[::200][:5]]


def chat(editable: EditableModel, messages: Messages, mode: SpanMode) -> EditContext:
    """Return a chat as a server would route it."""

    def render(turns: Messages) -> str:
        return str(editable.tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))

    rendered = render(messages)
    encoding = editable.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    span = (0, len(encoding["input_ids"]))
    if mode is SpanMode.CONTENT:
        marks = content_marks(rendered)
        chars = content_range(rendered, render(marked_messages(messages, marks)), marks)
        span = content_tokens(encoding["offset_mapping"], chars)
    return EditContext(PromptForm.CHAT, "", tuple(encoding["input_ids"]), span)


@pytest.mark.parametrize(("mode", "found"), [(SpanMode.CONTENT, True), (SpanMode.PROMPT, False)])
@pytest.mark.parametrize("before", [[SYSTEM], [SYSTEM, *TURNS]], ids=["system", "history"])
def test_a_question_behind_other_text(
    demo: EditableModel, questions: list[str], mode: SpanMode, found: bool, before: list[dict[str, str]]
) -> None:
    parameters = preset_parameters("cosine" if found else "horen-paper", "demo", 0.95)
    assert parameters.span is mode
    for question in questions:
        keys = queries(demo, prompt_forms(demo, question, parameters), Keying(parameters))
        asked = chat(demo, [*before, {"role": "user", "content": question}], mode)
        score = float((queries(demo, [asked], Keying(parameters)) @ keys.T).max())
        assert (score > 0.95) is found
