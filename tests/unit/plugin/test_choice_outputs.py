"""Each choice of a response keeps its own decision, on vLLM's own output objects."""

from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.plugin import outputs
from horen_vllm.plugin.tag import RESULT_KEY


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install the wrappers on vLLM's output processor and take them off again."""
    from vllm.outputs import RequestOutput
    from vllm.v1.engine import output_processor

    state = output_processor.RequestState
    for name in ("make_request_output", "_new_completion_output"):
        monkeypatch.setattr(state, name, getattr(state, name))
    monkeypatch.setattr(RequestOutput, "add", RequestOutput.add)
    outputs.install()
    return output_processor


class Detokenizer:
    """Makes text of any token."""

    output_token_ids = (7,)

    def get_next_output_text(self, finished: bool, delta: bool) -> str:
        return "x"

    def num_output_tokens(self) -> int:
        return 1


class Logprobs:
    """Keeps none."""

    logprobs = cumulative_logprob = prompt_logprobs = prompt_token_id_logprobs = None

    def pop_prompt_logprobs(self) -> None:
        return None

    pop_prompt_token_id_logprobs = pop_prompt_logprobs


def make_state(engine: Any, *, stream: bool = False, parent: Any = None, index: int = 0, name: str = "0_r") -> Any:
    from vllm.sampling_params import RequestOutputKind

    return engine.RequestState(
        request_id=name,
        external_req_id="r",
        parent_req=parent,
        request_index=index,
        lora_request=None,
        output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        prompt="p",
        prompt_token_ids=[1, 2],
        prompt_embeds=None,
        logprobs_processor=Logprobs(),
        detokenizer=Detokenizer(),
        max_tokens_param=4,
        arrival_time=0.0,
        queue=None,
        log_stats=False,
        stream_interval=1,
    )


def make_parent(n: int, *, stream: bool = False) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams
    from vllm.v1.engine.parallel_sampling import ParentRequest

    kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
    params = SamplingParams(n=n, output_kind=kind)
    return ParentRequest(SimpleNamespace(request_id="r", external_req_id="r", params=params))


def emit(state: Any, decision: dict[str, Any] | None = None, *, finished: bool = True) -> Any:
    from vllm.v1.engine import FinishReason

    params = None if decision is None else {RESULT_KEY: decision}
    return state.make_request_output([7], None, FinishReason.STOP if finished else None, None, params)


def test_a_finished_choice_has_its_decision_and_an_untagged_one_none(engine: Any) -> None:
    output = emit(make_state(engine), {"edit_id": "e"})
    assert [choice.horen for choice in output.outputs] == [{"edit_id": "e"}]
    assert output.kv_transfer_params == {RESULT_KEY: {"edit_id": "e"}}
    assert [choice.horen for choice in emit(make_state(engine)).outputs] == [None]


def test_choices_that_end_in_any_order_keep_their_own(engine: Any) -> None:
    parent = make_parent(3)
    states = [
        make_state(engine, parent=parent, index=index, name=parent.get_child_info(index)[0]) for index in range(3)
    ]
    decisions: list[dict[str, Any] | None] = [{"revision": 1}, None, {"revision": 2}]
    assert emit(states[2], decisions[2]) is None
    assert emit(states[0], decisions[0]) is None
    output = emit(states[1], decisions[1])
    assert output.finished
    assert [choice.index for choice in output.outputs] == [0, 1, 2]
    assert [choice.horen for choice in output.outputs] == decisions


def test_streamed_choices_keep_their_own(engine: Any) -> None:
    parent = make_parent(2, stream=True)
    states = [
        make_state(engine, stream=True, parent=parent, index=index, name=parent.get_child_info(index)[0])
        for index in range(2)
    ]
    [first] = emit(states[0], finished=False).outputs
    [second] = emit(states[1], {"revision": 2}).outputs
    [last] = emit(states[0], {"revision": 1}).outputs
    assert [first.horen, second.horen, last.horen] == [None, {"revision": 2}, {"revision": 1}]


def test_a_decision_outlives_the_merging_of_streamed_outputs(engine: Any) -> None:
    """What a slow reader has not taken yet is merged, into the output that came before the decision."""
    from vllm.sampling_params import RequestOutputKind

    parent = make_parent(2, stream=True)
    states = [
        make_state(engine, stream=True, parent=parent, index=index, name=parent.get_child_info(index)[0])
        for index in range(2)
    ]
    waiting = engine.RequestOutputCollector(RequestOutputKind.DELTA, "r")
    waiting.put(emit(states[0], finished=False))
    waiting.put(emit(states[0], {"revision": 1}))
    waiting.put(emit(states[1], finished=False))
    merged = waiting.get_nowait()
    assert [(choice.index, choice.horen) for choice in merged.outputs] == [(0, {"revision": 1}), (1, None)]


def test_a_decision_that_came_early_is_on_every_later_output(engine: Any) -> None:
    """With stop strings the API server itself ends the request, on an output that may carry nothing."""
    state = make_state(engine, stream=True)
    [early] = emit(state, {"edit_id": "e"}, finished=False).outputs
    [last] = emit(state).outputs
    assert early.horen == last.horen == {"edit_id": "e"}


def test_the_decision_is_found_by_name_too_and_other_parameters_are_not_one(engine: Any) -> None:
    from vllm.v1.engine import FinishReason

    state = make_state(engine)
    output = state.make_request_output(
        new_token_ids=[7],
        pooling_output=None,
        finish_reason=FinishReason.STOP,
        stop_reason=None,
        kv_transfer_params={RESULT_KEY: {"edit_id": "e"}},
    )
    assert output.outputs[0].horen == {"edit_id": "e"}
    other = make_state(engine).make_request_output([7], None, FinishReason.STOP, None, {"other": 1})
    assert other.outputs[0].horen is None
