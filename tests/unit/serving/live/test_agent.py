"""The agent between a real control plane and two workers: what is published gets served, what is refused is told."""

import asyncio
import functools
from dataclasses import replace
from typing import Any

import pytest

from horen_vllm.plugin.tag import RequestTag
from horen_vllm.registry.models import EditRecord, ReplicaReport
from horen_vllm.serving import lane
from horen_vllm.serving.probe import Greedy
from horen_vllm.serving.state import AgentState
from tests.unit.serving.live.world import FINGERPRINT, World, book


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.05)


def run(world: World, script: Any, state: AgentState | None = None, **settings: Any) -> None:
    asyncio.run(world.running(script, state, **settings))


def test_what_is_there_at_the_start_is_loaded_before_the_first_heartbeat(world: World) -> None:
    for name in ("a", "b"):
        world.create(name)
        world.publish(name, f"who leads {name}?", "Ada")

    async def script() -> None:
        await world.until(world.confirmed)
        ready = next(state for state in world.states if state.ready)
        assert {name.codebook: it.applied for name, it in ready.codebooks.items()} == {"a": 2, "b": 2}
        assert all(state.confirmed_at is None for state in world.states if not state.ready)
        assert world.engine.applied() == {"a": 2, "b": 2}
        assert world.serving("a", 2)

    run(world, script)


def test_edits_and_rollbacks_are_followed(world: World) -> None:
    world.create("a")

    async def script() -> None:
        await world.until(world.confirmed)
        first = world.publish("a", "who?", "Ada")
        await world.until(lambda: world.serving("a", 2))
        second = world.publish("a", "where?", "Rome")
        await world.until(lambda: world.serving("a", 3))
        name = str(book("a"))
        assert set(world.engine.ranks[0].entries[name]) == {first.edit_id, second.edit_id}
        world.registry.rollback(book("a"), 2)
        await world.until(lambda: world.serving("a", 4))
        assert all(set(rank.entries[name]) == {first.edit_id} for rank in world.engine.ranks)

    run(world, script)
    assert [rank.staged for rank in world.engine.ranks] == [{}, {}]
    assert list(world.packs.iterdir()) == []
    assert ("flipped", "a", 4) in world.observer.told


@pytest.mark.parametrize("code", ["capacity_exhausted", "artifact_corrupt"])
def test_a_refused_update_is_told_and_retried_while_the_old_revision_serves(world: World, code: str) -> None:
    world.create("a")
    world.create("b")

    async def script() -> None:
        await world.until(world.confirmed)
        world.engine.refuse["a"] = code
        edit = world.publish("a", "who?", "Ada")
        await world.until(lambda: problems(world, "a") == [("r1", 2, code)])
        state = world.state.codebooks[book("a")]
        assert (state.applied, state.latest, state.refused and state.refused.code) == (1, 2, code)
        assert world.engine.applied()["a"] == 1
        world.publish("b", "who?", "Ada")
        await world.until(lambda: world.serving("b", 2))
        world.engine.refuse.clear()
        await world.until(lambda: world.serving("a", 2))
        assert problems(world, "a") == []
        assert edit.edit_id in world.engine.ranks[1].entries[str(book("a"))]

    run(world, script)
    assert [rank.staged for rank in world.engine.ranks] == [{}, {}]


def test_a_refused_update_is_not_hammered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 60.0)
    world.create("a")
    world.create("b")

    async def script() -> None:
        await world.until(world.confirmed)
        world.engine.refuse["a"] = "capacity_exhausted"
        world.publish("a", "who?", "Ada")
        await world.until(lambda: problems(world, "a"))
        for number, prompt in enumerate(("1", "2", "3"), start=2):
            world.publish("b", prompt, "Ada")
            await world.until(functools.partial(world.serving, "b", number))

    run(world, script)
    assert world.observer.told.count(("refused", "a", "capacity_exhausted")) == 1


def test_a_newer_revision_is_tried_at_once_after_a_refusal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback must not wait for the pause that the revision before it has earned."""
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 60.0)
    world.create("a")

    async def script() -> None:
        await world.until(world.confirmed)
        world.engine.refuse["a"] = "capacity_exhausted"
        world.publish("a", "who?", "Ada")
        await world.until(lambda: problems(world, "a"))
        world.engine.refuse.clear()
        world.registry.rollback(book("a"), 1)
        await world.until(lambda: world.serving("a", 3))

    run(world, script)


@pytest.mark.parametrize("code", ["revision_gap", "space_missing"])
def test_what_a_change_lacks_makes_the_agent_load_the_whole_codebook(world: World, code: str) -> None:
    world.create("a")

    async def script() -> None:
        await world.until(world.confirmed)
        first = world.publish("a", "who?", "Ada")
        await world.until(lambda: world.serving("a", 2))
        world.engine.refuse["a"] = code
        second = world.publish("a", "where?", "Rome")
        await world.until(lambda: world.serving("a", 3))
        assert set(world.engine.ranks[0].entries[str(book("a"))]) == {first.edit_id, second.edit_id}

    run(world, script)
    assert ("refused", "a", code) in world.observer.told


def test_a_staging_that_takes_too_long_is_given_up_and_freed(world: World) -> None:
    world.create("a")
    world.engine.refuse["a"] = "never"

    async def script() -> None:
        await world.until(lambda: ("refused", "a", "stage_timeout") in world.observer.told)

    run(world, script, stage_timeout_s=0.05)
    assert "horen_unstage" in world.engine.calls
    assert [rank.staged for rank in world.engine.ranks] == [{}, {}]


def test_an_update_on_its_way_holds_up_neither_others_nor_the_heartbeat(world: World) -> None:
    world.create("slow")
    world.create("quick")

    async def script() -> None:
        await world.until(world.confirmed)
        world.engine.refuse["slow"] = "never"
        world.publish("slow", "who?", "Ada")
        await world.until(lambda: world.state.tickets)
        before = world.state.confirmed_at
        world.publish("quick", "who?", "Ada")
        await world.until(lambda: world.serving("quick", 2))
        await world.until(lambda: world.state.confirmed_at != before)
        assert world.state.tickets

    run(world, script)
    assert [rank.staged for rank in world.engine.ranks] == [{}, {}], "a cancelled update is freed, too"
    assert list(world.packs.iterdir()) == []


def test_a_failing_probe_is_told_while_the_revision_serves_and_heals(world: World) -> None:
    world.create("a")

    async def script() -> None:
        await world.until(world.confirmed)
        edit = muted(world, "a")
        await world.until(lambda: problems(world, "a") == [("r1", 2, "probe_failed")])
        assert not world.serving("a", 2)
        assert world.engine.applied()["a"] == 2
        view = world.client.get_edit(edit.edit_id)
        assert (view.reason_code, "no edit fired" in str(view.reason)) == ("probe_failed", True)
        world.engine.mute = lambda _edit: False
        await world.until(lambda: world.serving("a", 2))
        assert problems(world, "a") == []

    run(world, script)


def test_a_wrong_answer_fails_a_probe(world: World) -> None:
    world.create("a")
    ask = world.engine.ask

    async def wrong(prompt_ids: list[int], tokens: int, tag: RequestTag) -> Greedy:
        return Greedy((1, 2, 3), (await ask(prompt_ids, tokens, tag)).decision)

    world.engine.ask = wrong  # type: ignore[method-assign]

    async def script() -> None:
        await world.until(world.confirmed)
        world.publish("a", "who?", "Ada")
        await world.until(lambda: problems(world, "a"))
        (failed,) = world.state.codebooks[book("a")].failed
        assert "[1, 2, 3]" in failed.reason

    run(world, script)


def test_only_the_last_of_several_edits_of_a_prompt_is_asked(world: World) -> None:
    world.create("a")
    world.publish("a", "who?", "Ada")
    world.publish("a", "who?", "Grace")

    async def script() -> None:
        await world.until(lambda: world.serving("a", 3))

    run(world, script)


def test_entries_without_a_prompt_are_counted_not_asked(world: World) -> None:
    world.create("a")
    edit = world.publish("a", "who?", "Ada", probe=False)
    world.engine.mute = lambda muted: muted == edit.edit_id

    async def script() -> None:
        await world.until(lambda: world.serving("a", 2))
        assert world.state.codebooks[book("a")].without_probe == 1

    run(world, script)


def test_a_removed_codebook_is_forgotten(world: World) -> None:
    world.create("a")
    gone = str(book("gone"))
    for rank in world.engine.ranks:
        rank.applied[gone] = 7

    async def script() -> None:
        await world.until(lambda: world.engine.applied() == {"a": 1})
        await world.until(lambda: set(world.state.codebooks) == {book("a")})

    run(world, script)
    assert "horen_drop" in world.engine.calls


def test_a_drop_that_fails_is_tried_again_while_nobody_is_answered_for_the_codebook(world: World) -> None:
    world.create("a")
    gone = str(book("gone"))
    for rank in world.engine.ranks:
        rank.applied[gone] = 7
    call = world.engine.collective_rpc
    failures = [ConnectionError("lost"), ConnectionError("lost")]

    async def failing(method: str, args: tuple[str]) -> list[str]:
        if method == "horen_drop" and failures:
            raise failures.pop()
        return await call(method, args)

    world.engine.collective_rpc = failing  # type: ignore[method-assign]

    async def script() -> None:
        await world.until(lambda: len(failures) == 1)
        assert book("gone") not in world.state.codebooks
        await world.until(lambda: world.engine.applied() == {"a": 1})

    run(world, script)


def test_the_agent_survives_a_restart_of_the_control_plane(world: World) -> None:
    world.create("a")

    async def script() -> None:
        await world.until(world.confirmed)
        await world.stop_server()
        await world.until(lambda: any(told[0] == "failed" for told in world.observer.told))
        edit = world.publish("a", "who?", "Ada")
        before = world.state.confirmed_at
        await world.start_server()
        await world.until(lambda: world.engine.applied() == {"a": 2})
        await world.until(lambda: world.state.confirmed_at != before)
        assert edit.edit_id in world.engine.ranks[0].entries[str(book("a"))]

    run(world, script)


def test_a_successor_goes_on_without_loading_anew(world: World) -> None:
    world.create("a")
    world.publish("a", "who?", "Ada")
    run(world, lambda: world.until(lambda: world.serving("a", 2)))
    left = AgentState.from_json(world.state.to_json())
    assert left == world.state
    world.engine.calls.clear()

    async def script() -> None:
        await world.until(lambda: world.state.confirmed_at != left.confirmed_at)
        assert "horen_stage" not in world.engine.calls
        world.publish("a", "where?", "Rome")
        await world.until(lambda: world.serving("a", 3))

    run(world, script, left)


def test_a_successor_loads_anew_what_the_state_does_not_tell_of_and_frees_what_was_staged(world: World) -> None:
    """The agent may die between a flip and its report, or while it stages."""
    world.create("a")
    edit = world.publish("a", "who?", "Ada")
    run(world, lambda: world.until(lambda: world.serving("a", 2)))
    name = book("a")
    behind = {name: replace(world.state.codebooks[name], applied=1, probed=1)}
    for rank in world.engine.ranks:
        rank.staged["left"] = {}
    world.packs.joinpath("me-left.pack").write_bytes(b"")
    world.engine.calls.clear()

    async def script() -> None:
        await world.until(lambda: world.engine.calls.count("horen_flip") == 1)
        await world.until(lambda: world.state.codebooks[name].probed == 2)
        assert set(world.engine.ranks[0].entries[str(name)]) == {edit.edit_id}

    run(world, script, replace(world.state, codebooks=behind, tickets=("left",)))
    assert [rank.staged for rank in world.engine.ranks] == [{}, {}]
    assert list(world.packs.iterdir()) == []


def test_sequence_numbers_go_on_where_the_engine_is(world: World) -> None:
    world.create("a")
    for rank in world.engine.ranks:
        rank.sequence = 41

    async def script() -> None:
        await world.until(lambda: world.engine.applied() == {"a": 1})
        for rank in world.engine.ranks:
            rank.sequence = 99
        world.publish("a", "who?", "Ada")
        await world.until(lambda: world.serving("a", 2))

    run(world, script)
    assert ("refused", "a", "stale_update") in world.observer.told
    assert world.engine.ranks[0].sequence > 99


def problems(world: World, name: str) -> list[tuple[str, int, str]]:
    return [(it.replica_id, it.revision, it.code) for it in world.client.get_codebook(book(name)).problems]


def muted(world: World, name: str) -> EditRecord:
    """Publish an edit that does not fire."""
    known = set(world.engine.prompts)
    world.engine.mute = lambda edit: edit not in known
    return world.publish(name, "who?", "Ada")


def test_loading_a_whole_codebook_forgets_no_failed_probe(world: World) -> None:
    world.create("a")

    async def script() -> None:
        await world.until(world.confirmed)
        edit = muted(world, "a")
        await world.until(lambda: problems(world, "a"))
        before = len(world.states)
        world.engine.refuse["a"] = "revision_gap"
        world.publish("a", "where?", "Rome")
        await world.until(lambda: world.state.codebooks[book("a")].probed == 3)
        for state in world.states[before:]:
            it = state.codebooks[book("a")]
            failing = [failure.probe.edit_id for failure in it.failed]
            assert min(it.applied, it.probed) < 2 or edit.edit_id in failing

    run(world, script)


def test_what_was_rolled_back_while_the_server_was_away_is_not_answered_for_when_it_is_back(world: World) -> None:
    """The others called the rollback SERVING without it, so its new lease alone must not make it answer."""
    world.create("a")
    world.create("b")

    async def script() -> None:
        await world.until(world.confirmed)
        world.publish("a", "who?", "Ada")
        await world.until(lambda: world.serving("a", 2))
        await world.stop_server()
        before = world.state.confirmed_at
        await world.until(lambda: world.registry.live_replicas() == [])
        world.registry.rollback(book("a"), 1)
        other = ReplicaReport(applied={book("a"): 3}, probed={book("a"): 3}, failed_probes=(), refused=())
        epoch = world.registry.epoch()
        world.registry.heartbeat("r2", model="m", fingerprint=FINGERPRINT, epoch=epoch, report=other, lease_s=60)
        world.engine.refuse["a"] = "never"
        await world.start_server()
        await world.until(lambda: world.state.confirmed_at != before)
        states = world.state.codebooks
        assert (states[book("a")].applied, states[book("a")].owed) == (2, 3)
        assert states[book("b")].applied >= states[book("b")].owed, "the other codebook is answered for at once"

    run(world, script, lease_s=0.5)
