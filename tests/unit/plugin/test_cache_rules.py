"""Prefix-cache rules on small doubles of vLLM's request, coordinator, cache manager and scheduler."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.plugin import cache_rules
from horen_vllm.plugin.step_output import DECISIONS_ATTRIBUTE
from horen_vllm.plugin.tag import RESULT_KEY, RequestTag

BLOCK = 4


def make_request(
    prompt: int = 10,
    *,
    tagged: bool = True,
    name: str = "r",
    ratio: float = 0.6,
    span: tuple[int, int] | None = None,
    stop: Any = (),
) -> Any:
    extra = RequestTag("book", ratio, span).to_extra_args() if tagged else None
    sampling = SimpleNamespace(extra_args=extra, stop=list(stop))
    return SimpleNamespace(request_id=name, num_prompt_tokens=prompt, sampling_params=sampling)


def plain_keys(_request: Any, start: int, _end: int, mm_idx: int) -> tuple[Any, int]:
    return (("mm", start),) if start == 0 else None, mm_idx + 1


def keys_of(request: Any, block: int) -> tuple[Any, int]:
    keys: tuple[Any, int] = cache_rules._taint(plain_keys)(request, block * BLOCK, (block + 1) * BLOCK, 0)
    return keys


@pytest.mark.parametrize(("prompt", "first_tainted"), [(10, 2), (8, 1), (9, 2), (1, 0), (4, 0), (5, 1)])
def test_only_blocks_with_the_last_prompt_token_or_later_are_private(prompt: int, first_tainted: int) -> None:
    request = make_request(prompt)
    for block in range(5):
        expected = plain_keys(request, block * BLOCK, 0, 0)
        if block < first_tainted:
            assert keys_of(request, block) == expected
        else:
            keys, mm_idx = keys_of(request, block)
            assert keys[:-1] == (expected[0] or ())
            assert keys[-1][0] == "horen"
            assert mm_idx == expected[1]


def test_the_nonce_is_one_for_a_request_and_another_for_the_next() -> None:
    first, second = make_request(), make_request()
    nonces = [keys_of(first, block)[0][-1] for block in (2, 3, 2)]
    assert len(set(nonces)) == 1
    assert len(nonces[0][1]) == 32
    assert keys_of(second, 2)[0][-1] != nonces[0]


def test_clean_and_pooling_requests_keep_ordinary_blocks() -> None:
    pooling = SimpleNamespace(num_prompt_tokens=1, sampling_params=None)
    for request in (make_request(tagged=False), pooling):
        assert keys_of(request, 4) == plain_keys(request, 4 * BLOCK, 0, 0)


class Coordinator:
    """Finds as much as it is allowed to."""

    def __init__(self) -> None:
        self.limits: list[int] = []

    def find_longest_cache_hit(self, _block_hashes: Sequence[int], max_cache_hit_length: int) -> int:
        self.limits.append(max_cache_hit_length)
        if max_cache_hit_length < 0:
            raise LookupError("cache")
        return max_cache_hit_length


def make_manager() -> Any:
    class Manager:
        def __init__(self) -> None:
            self.coordinator = Coordinator()
            self.shift = 0

        def get_computed_blocks(self, request: Any) -> int:
            return self.coordinator.find_longest_cache_hit([], request.num_prompt_tokens - 1 + self.shift)

    cache_rules._cap_hits(Manager)
    return Manager()


@pytest.mark.parametrize(("prompt", "ratio", "cap"), [(10, 0.6, 4), (10, 1.0, 0), (1, 0.6, 0), (100, 0.01, 99)])
def test_a_tagged_request_reads_nothing_past_its_windows_start(prompt: int, ratio: float, cap: int) -> None:
    manager = make_manager()
    assert manager.get_computed_blocks(make_request(prompt, ratio=ratio)) == cap
    assert manager.get_computed_blocks(make_request(prompt, tagged=False)) == prompt - 1
    assert vars(manager.coordinator).keys() == {"limits"}


@pytest.mark.parametrize(("span", "cap"), [((20, 30), 24), ((0, 10), 4), ((39, 40), 39), ((30, 400), 34)])
def test_a_chats_cap_is_the_start_of_the_window_in_its_span(span: tuple[int, int], cap: int) -> None:
    manager = make_manager()
    assert manager.get_computed_blocks(make_request(40, span=span)) == cap


@pytest.mark.parametrize("extra", [["horen_codebook"], {"horen_codebook": "book"}, {"horen_codebook": 3}])
def test_what_is_not_a_tag_of_ours_is_an_ordinary_request(extra: Any) -> None:
    """A server without our middleware may get anything; the engine core must not end over it."""
    request = make_request(10)
    request.sampling_params.extra_args = extra
    assert make_manager().get_computed_blocks(request) == 9
    assert keys_of(request, 4) == plain_keys(request, 4 * BLOCK, 0, 0)


def test_a_smaller_limit_of_vllm_stays() -> None:
    manager = make_manager()
    manager.shift = -8
    assert manager.get_computed_blocks(make_request(10)) == 1


def test_the_cap_is_taken_away_even_when_the_lookup_fails() -> None:
    manager = make_manager()
    manager.shift = -1000
    with pytest.raises(LookupError):
        manager.get_computed_blocks(make_request())
    assert "find_longest_cache_hit" not in vars(manager.coordinator)
    manager.shift = 0
    assert manager.get_computed_blocks(make_request(tagged=False)) == 9


def make_scheduler() -> Any:
    class Scheduler:
        def __init__(self) -> None:
            self.requests: dict[str, Any] = {}
            self.params: dict[str, Any] | None = None
            self.finishing: list[Any] = []

        def update_from_output(self, _scheduler_output: Any, _model_runner_output: Any) -> dict[int, Any]:
            running = [SimpleNamespace(request_id=name, kv_transfer_params=None) for name in self.requests]
            freed = [
                SimpleNamespace(request_id=request.request_id, kv_transfer_params=self._free_request(request)[0])
                for request in self.finishing
            ]
            self.finishing = []
            names = {request.request_id for request in freed}
            return {0: SimpleNamespace(outputs=[one for one in running if one.request_id not in names] + freed)}

        def _free_request(self, request: Any, delay_free_blocks: bool = False) -> tuple[Any, Any]:
            del self.requests[request.request_id]
            return self.params, delay_free_blocks

    cache_rules._carry_decisions(Scheduler)
    scheduler = Scheduler()
    scheduler.requests = {"r": make_request(), "s": make_request(name="s")}
    return scheduler


def output(**decisions: Any) -> Any:
    return SimpleNamespace(**{DECISIONS_ATTRIBUTE: decisions}) if decisions else SimpleNamespace()


def sent(scheduler: Any, step: Any) -> dict[str, Any]:
    """Return what one step sends to the client, by request."""
    [group] = scheduler.update_from_output(None, step).values()
    return {one.request_id: one.kv_transfer_params for one in group.outputs}


def test_a_decision_waits_for_the_end_of_its_request() -> None:
    scheduler = make_scheduler()
    assert sent(scheduler, output(r={"edit_id": "e"})) == {"r": None, "s": None}
    assert sent(scheduler, output()) == {"r": None, "s": None}
    scheduler.finishing = [scheduler.requests["r"]]
    assert sent(scheduler, output()) == {"r": {RESULT_KEY: {"edit_id": "e"}}, "s": None}
    assert scheduler._free_request(scheduler.requests["s"], delay_free_blocks=True) == (None, True)


def test_with_stop_strings_every_output_carries_the_decision() -> None:
    """The API server ends such a request by itself, on any of its outputs."""
    scheduler = make_scheduler()
    scheduler.requests["r"].sampling_params.stop = ["\n"]
    assert sent(scheduler, output(r={"edit_id": "e"}, s={"edit_id": "f"}))["r"] == {RESULT_KEY: {"edit_id": "e"}}
    assert sent(scheduler, output()) == {"r": {RESULT_KEY: {"edit_id": "e"}}, "s": None}


def test_a_decision_of_the_last_step_is_there_at_once_and_beside_other_parameters() -> None:
    scheduler = make_scheduler()
    scheduler.params, scheduler.finishing = {"other": 1}, [scheduler.requests["r"]]
    assert sent(scheduler, output(r={"edit_id": None}))["r"] == {"other": 1, RESULT_KEY: {"edit_id": None}}
    assert scheduler.params == {"other": 1}


def test_a_decided_request_may_read_all_blocks_when_it_resumes() -> None:
    scheduler, manager = make_scheduler(), make_manager()
    request = scheduler.requests["r"]
    assert manager.get_computed_blocks(request) == 4
    nonce = keys_of(request, 3)
    scheduler.update_from_output(None, output(r={"edit_id": None}))
    assert manager.get_computed_blocks(request) == 9
    assert keys_of(request, 3) == nonce
    assert manager.get_computed_blocks(scheduler.requests["s"]) == 4


def test_a_decision_of_an_aborted_request_is_not_kept_for_the_next_of_its_name() -> None:
    scheduler = make_scheduler()
    scheduler._free_request(scheduler.requests["r"])
    scheduler.update_from_output(None, output(r={"edit_id": "old"}))
    scheduler.requests["r"] = make_request()
    assert scheduler._free_request(scheduler.requests["r"]) == (None, False)
