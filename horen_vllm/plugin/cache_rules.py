"""Rules in the engine core: what tagged requests may read from and leave in the prefix cache, and the way back
of their decisions.

Why: a KV block at position P - 1 or later may carry an edit, and a routed request must compute its whole query
window itself. How: two functions of the KV cache and two of the scheduler are wrapped. The block hash chain makes
every block after the first tainted one private too. Remove when: vLLM lets a request bound its cache hit and salt
its blocks by position.
"""

import functools
import secrets
from typing import Any, Final

from horen_vllm.plugin.step_output import DECISIONS_ATTRIBUTE
from horen_vllm.plugin.tag import RESULT_KEY, tag_of

_NONCE: Final = "_horen_nonce"
_HELD: Final = "_horen_decisions"
_DECIDED: Final = "_horen_decided"


def install() -> None:
    """Wrap the engine core's functions in this process."""
    from vllm.v1.core import block_pool, kv_cache_manager, kv_cache_utils  # noqa: PLC0415
    from vllm.v1.core.sched.scheduler import Scheduler  # noqa: PLC0415

    tainted = _taint(kv_cache_utils.generate_block_hash_extra_keys)
    kv_cache_utils.generate_block_hash_extra_keys = tainted
    block_pool.generate_block_hash_extra_keys = tainted
    _cap_hits(kv_cache_manager.KVCacheManager)
    _carry_decisions(Scheduler)


def _taint(original: Any) -> Any:
    @functools.wraps(original)
    def extra_keys(request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int) -> Any:
        keys, next_mm_idx = original(request, start_token_idx, end_token_idx, start_mm_idx)
        if end_token_idx >= request.num_prompt_tokens and tag_of(request.sampling_params) is not None:
            keys = (*(keys or ()), ("horen", _nonce(request)))
        return keys, next_mm_idx

    return extra_keys


def _nonce(request: Any) -> str:
    nonce: str | None = getattr(request, _NONCE, None)
    if nonce is None:
        nonce = secrets.token_hex(16)
        setattr(request, _NONCE, nonce)
    return nonce


def _cap_hits(manager_class: Any) -> None:
    original = manager_class.get_computed_blocks

    @functools.wraps(original)
    def get_computed_blocks(self: Any, request: Any) -> Any:
        tag = tag_of(request.sampling_params)
        # A request that is decided pools no more: when it resumes, it may read all blocks, its own tainted ones too.
        if tag is None or hasattr(request, _DECIDED):
            return original(self, request)
        cap = tag.window(request.num_prompt_tokens)[0]
        coordinator = self.coordinator
        find = coordinator.find_longest_cache_hit

        # A smaller maximum, not a truncated result: sliding-window groups need the blocks before the cut.
        def find_capped(block_hashes: Any, max_cache_hit_length: int) -> Any:
            return find(block_hashes, min(max_cache_hit_length, cap))

        coordinator.find_longest_cache_hit = find_capped
        try:
            return original(self, request)
        finally:
            del coordinator.find_longest_cache_hit

    manager_class.get_computed_blocks = get_computed_blocks


def _carry_decisions(scheduler_class: Any) -> None:
    update, free = scheduler_class.update_from_output, scheduler_class._free_request

    @functools.wraps(update)
    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        fresh = getattr(model_runner_output, DECISIONS_ATTRIBUTE, None)
        if fresh:
            # A request that was aborted while its step ran is freed already and would never take its own.
            alive = {name: decision for name, decision in fresh.items() if name in self.requests}
            self.__dict__.setdefault(_HELD, {}).update(alive)
            for name in alive:
                setattr(self.requests[name], _DECIDED, True)
        outputs = update(self, scheduler_output, model_runner_output)
        _attach_before_stop_strings(self, outputs)
        return outputs

    @functools.wraps(free)
    def free_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        kv_transfer_params, other = free(self, request, *args, **kwargs)
        decision = self.__dict__.get(_HELD, {}).pop(request.request_id, None)
        if decision is not None:
            kv_transfer_params = {**(kv_transfer_params or {}), RESULT_KEY: decision}
        return kv_transfer_params, other

    scheduler_class.update_from_output = update_from_output
    scheduler_class._free_request = free_request


def _attach_before_stop_strings(scheduler: Any, outputs: dict[int, Any]) -> None:
    """Put the decision on every output of a request with stop strings.

    The API server finds those strings and ends the request by itself, so any output may turn out to be the last.
    """
    held = scheduler.__dict__.get(_HELD)
    for group in outputs.values() if held else ():
        for output in group.outputs:
            request = scheduler.requests.get(output.request_id)
            decision = held.get(output.request_id)
            if decision is not None and request is not None and request.sampling_params.stop:
                output.kv_transfer_params = {**(output.kv_transfer_params or {}), RESULT_KEY: decision}
