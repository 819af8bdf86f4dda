"""Tagged requests that are refused before they reach the engine, through vLLM's own input processor."""

from collections.abc import Iterator
from typing import Any

import pytest

from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.errors import InvalidArgument
from horen_vllm.plugin import admission
from horen_vllm.plugin.tag import RequestTag

PROMPT = [5, 6, 7, 8, 9, 10]
TAG = RequestTag("tenants/t/codebooks/c", 0.5, (1, 5), 3).to_extra_args()


@pytest.fixture(scope="module")
def processors() -> Iterator[dict[str, Any]]:
    """vLLM's processor of an engine with an edit site and of one without, wrapped as the plugin does it."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.input_processor import InputProcessor

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_PLUGINS", "none")
        patch.setattr(InputProcessor, "process_inputs", InputProcessor.process_inputs)
        admission.install()
        settings = {"edited": {"horen": {"site": "model.layers.1.mlp.down_proj"}}, "plain": {}}
        options = {"enable_lora": True, "enable_prompt_embeds": True}
        yield {
            name: InputProcessor(
                EngineArgs(str(demo_model_dir()), additional_config=config, **options).create_engine_config()
            )
            for name, config in settings.items()
        }


def process(processor: Any, extra: dict[str, Any] | None, prompt: Any = None, **options: Any) -> Any:
    from vllm import SamplingParams

    given = prompt or {"type": "token", "prompt_token_ids": PROMPT}
    params = SamplingParams(max_tokens=2, extra_args=extra)
    return processor.process_inputs("r", given, params, ("generate",), **options)


def test_a_good_request_passes_with_its_tag(processors: dict[str, Any]) -> None:
    request = process(processors["edited"], {**TAG, "other": 1})
    assert request.prompt_token_ids == PROMPT
    assert request.sampling_params.extra_args == {**TAG, "other": 1}


@pytest.mark.parametrize("kind", ["edited", "plain"])
def test_a_clean_request_is_left_alone(processors: dict[str, Any], kind: str) -> None:
    from vllm.lora.request import LoRARequest

    adapter = LoRARequest("a", 1, "/nowhere")
    extra = {"other": 1, "kv_transfer_params": {"do_remote_decode": False}}
    assert process(processors[kind], extra, lora_request=adapter, resumable=True).lora_request is adapter
    assert process(processors[kind], None).sampling_params.extra_args is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"horen_codebook": ["c"]}, "horen_codebook"),
        ({"horen_codebook": ""}, "horen_codebook"),
        ({"horen_codebook": None}, "horen_codebook"),
        ({"horen_window_ratio": 0}, "horen_window_ratio"),
        ({"horen_window_ratio": 1.01}, "horen_window_ratio"),
        ({"horen_window_ratio": float("nan")}, "horen_window_ratio"),
        ({"horen_window_ratio": "0.5"}, "horen_window_ratio"),
        ({"horen_window_ratio": True}, "horen_window_ratio"),
        ({"horen_span": [2, 2]}, "horen_span"),
        ({"horen_span": [-1, 2]}, "horen_span"),
        ({"horen_span": [0, 2.0]}, "horen_span"),
        ({"horen_span": "02"}, "horen_span"),
        ({"horen_span": [0, 1, 2]}, "horen_span"),
        ({"horen_explain": -1}, "horen_explain"),
        ({"horen_explain": 1000}, "horen_explain"),
        ({"horen_explain": 1.5}, "horen_explain"),
        ({"horen_explian": 1}, "horen_explian"),
    ],
)
@pytest.mark.parametrize("kind", ["edited", "plain"])
def test_a_malformed_tag_is_refused_by_its_field(
    processors: dict[str, Any], kind: str, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        process(processors[kind], {**TAG, **change})
    assert caught.value.code == "malformed_tag"  # type: ignore[attr-defined]


@pytest.mark.parametrize("missing", ["horen_codebook", "horen_window_ratio"])
def test_half_a_tag_is_refused(processors: dict[str, Any], missing: str) -> None:
    extra = {name: value for name, value in TAG.items() if name != missing}
    with pytest.raises(InvalidArgument, match=missing) as caught:
        process(processors["edited"], extra)
    assert caught.value.code == "malformed_tag"


def test_an_engine_without_an_edit_site_refuses_a_tag(processors: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        process(processors["plain"], TAG)
    assert caught.value.code == "no_edit_site"


@pytest.mark.parametrize(("span", "good"), [((0, 6), True), ((0, 7), False), ((6, 7), False), ((5, 6), True)])
def test_a_span_must_lie_in_the_prompt(processors: dict[str, Any], span: tuple[int, int], good: bool) -> None:
    extra = RequestTag("c", 0.5, span).to_extra_args()
    if good:
        assert process(processors["edited"], extra).prompt_token_ids == PROMPT
        return
    with pytest.raises(InvalidArgument, match="6 tokens") as caught:
        process(processors["edited"], extra)
    assert caught.value.code == "span_outside_prompt"


def test_a_text_prompt_is_measured_in_tokens(processors: dict[str, Any]) -> None:
    extra = RequestTag("c", 0.5, (0, 400)).to_extra_args()
    with pytest.raises(InvalidArgument) as caught:
        process(processors["edited"], extra, prompt="a short prompt")
    assert caught.value.code == "span_outside_prompt"


def test_what_cannot_be_routed_is_refused_with_the_reason(processors: dict[str, Any]) -> None:
    import torch
    from vllm.lora.request import LoRARequest

    config = processors["edited"].vllm_config.model_config
    embeddings = {"type": "embeds", "prompt_embeds": torch.zeros(4, config.get_hidden_size(), dtype=config.dtype)}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("LoRA adapter", {"lora_request": LoRARequest("a", 1, "/nowhere")}),
        ("streaming-input", {"resumable": True}),
        ("embeddings", {"prompt": embeddings}),
        ("kv_transfer_params", {"extra": {**TAG, "kv_transfer_params": {"do_remote_prefill": True}}}),
    ]
    for named, options in cases:
        with pytest.raises(InvalidArgument, match=named) as caught:
            process(processors["edited"], **{"extra": TAG, **options})
        assert caught.value.code == "unsupported_request"


def test_beam_search_has_no_room_for_a_tag() -> None:
    """It re-submits its beams as prompts, which would move the answer's start."""
    from vllm.sampling_params import BeamSearchParams

    assert "extra_args" not in BeamSearchParams.__struct_fields__
