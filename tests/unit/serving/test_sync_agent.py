"""The sync agent: one codebook's trouble stays its own, and the table says what every worker has."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from horen_vllm.control.messages import CodebookView, DeltaView, SyncView
from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import FailedPrecondition, HorenError, Unavailable
from horen_vllm.ids import CodebookName
from horen_vllm.serving import sync
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.settings import ServingSettings
from horen_vllm.serving.sync import SyncAgent
from tests.unit.serving.doubles import Clock, name_of, served_books


def delta(codebook: str, revision: int, *, base: int = 0, ratio: float = 0.6) -> DeltaView:
    parameters = MethodParameters(preset="cosine", threshold=0.9, window_ratio=ratio)
    view = CodebookView(
        name=name_of(codebook),
        model="base",
        fingerprint="f",
        site="s",
        parameters=parameters,
        revision=revision,
        entry_count=0,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return DeltaView(codebook=view, base=base, revision=revision, added=(), removed=())


class Client:
    """A control plane that answers a script and keeps what it was told."""

    def __init__(self, *news: SyncView | HorenError) -> None:
        self.news = list(news)
        self.asked: list[dict[str, Any]] = []
        self.beats: list[dict[str, Any]] = []
        self.on_beat: Callable[[], object] = list

    def sync(self, replica_id: str, **question: Any) -> SyncView:
        self.asked.append({"replica_id": replica_id, **question})
        answer = self.news.pop(0) if self.news else SyncView()
        if isinstance(answer, HorenError):
            raise answer
        return answer

    def heartbeat(self, replica_id: str, **beat: Any) -> None:
        self.beats.append({"replica_id": replica_id, **beat})
        self.on_beat()


class Engine:
    """An engine that refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.applied: list[tuple[str, int]] = []
        self.dropped: list[str] = []
        self.refuse: dict[str, str] = {}

    async def apply(self, update: DeltaView) -> None:
        self._check(update.codebook.name)
        self.applied.append((update.codebook.name.codebook, update.revision))

    async def drop(self, codebook: str) -> None:
        self._check(CodebookName.parse(codebook))
        self.dropped.append(codebook)

    def _check(self, name: CodebookName) -> None:
        if name.codebook in self.refuse:
            raise FailedPrecondition("no.", code=self.refuse[name.codebook])


class Scene:
    """An agent with its surroundings."""

    def __init__(self, *news: SyncView | HorenError, served: ServedCodebooks | None = None) -> None:
        self.client, self.engine = Client(*news), Engine()
        self.clock = Clock()
        self.served = served or served_books(clock=self.clock, touch=False)
        self.agent = SyncAgent(
            client=self.client,  # type: ignore[arg-type]
            engine=self.engine,  # type: ignore[arg-type]
            served=self.served,
            settings=ServingSettings(replica_id="r1", sync_wait_s=1.5, lease_s=7.0),
            model="base",
            fingerprint="f",
        )

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(self.agent.step())

    def known(self) -> dict[str, int]:
        return {name.codebook: revision for name, revision in self.client.asked[-1]["known"].items()}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "RETRY_S", 0.0)


def test_news_are_applied_served_listed_and_reported() -> None:
    scene = Scene(SyncView(deltas=(delta("a", 4, ratio=0.3), delta("b", 1))))
    scene.step()
    assert scene.engine.applied == [("a", 4), ("b", 1)]
    assert scene.served.model_names() == ["base@a", "base@b"]
    tag = scene.served.resolve("base@a")
    assert tag is not None
    assert tag.window_ratio == 0.3
    replica = {"replica_id": "r1", "model": "base", "fingerprint": "f"}
    assert scene.client.asked == [{**replica, "known": {}, "wait_s": 0.0}]
    assert scene.client.beats == [{**replica, "applied": {name_of("a"): 4, name_of("b"): 1}, "lease_s": 7.0}]


def test_a_quiet_step_waits_touches_and_beats_without_a_change() -> None:
    scene = Scene()
    scene.step()
    scene.clock.now += 29.0
    scene.step()
    scene.clock.now += 29.0
    assert not scene.served.stale
    assert [question["wait_s"] for question in scene.client.asked] == [0.0, 1.5]
    assert len(scene.client.beats) == 2


@pytest.mark.parametrize("code", ["capacity_exhausted", "artifact_corrupt", "internal"])
def test_a_refused_update_keeps_the_old_revision_and_holds_up_nobody(code: str) -> None:
    scene = Scene(SyncView(deltas=(delta("a", 1),)), SyncView(deltas=(delta("a", 2, base=1), delta("b", 9))))
    scene.step()
    scene.engine.refuse["a"] = code
    scene.step()
    assert scene.served.revisions() == {name_of("a"): 1, name_of("b"): 9}
    assert not scene.served.stale
    assert scene.client.beats[-1]["applied"] == scene.served.revisions()
    scene.step()
    assert scene.known() == {"a": 1, "b": 9}


def test_after_a_revision_gap_the_whole_codebook_is_asked_for_until_it_is_there() -> None:
    news = [SyncView(deltas=(delta("a", 1), delta("b", 1))), SyncView(deltas=(delta("a", 2, base=1),))]
    scene = Scene(*news, SyncView(deltas=(delta("a", 2),)), SyncView(deltas=(delta("a", 2),)))
    scene.step()
    scene.engine.refuse["a"] = "revision_gap"
    scene.step()
    scene.engine.refuse["a"] = "capacity_exhausted"
    scene.step()
    assert scene.known() == {"a": 0, "b": 1}
    scene.engine.refuse.clear()
    scene.step()
    assert scene.known() == {"a": 0, "b": 1}
    scene.step()
    assert scene.known() == {"a": 2, "b": 1}


def test_a_codebook_that_is_removed_during_its_reload_goes() -> None:
    news = [SyncView(deltas=(delta("a", 1),)), SyncView(deltas=(delta("a", 2, base=1),))]
    scene = Scene(*news, SyncView(removed_codebooks=(name_of("a"),)))
    scene.step()
    scene.engine.refuse["a"] = "revision_gap"
    scene.step()
    scene.engine.refuse.clear()
    scene.step()
    assert scene.engine.dropped == [str(name_of("a"))]
    scene.step()
    assert scene.known() == {}


def test_a_removed_codebook_is_dropped_and_no_longer_listed() -> None:
    scene = Scene(SyncView(deltas=(delta("a", 1), delta("b", 1))), SyncView(removed_codebooks=(name_of("a"),)))
    scene.step(2)
    assert scene.engine.dropped == [str(name_of("a"))]
    assert scene.served.model_names() == ["base@b"]
    assert scene.client.beats[-1]["applied"] == {name_of("b"): 1}


def test_a_drop_that_fails_is_tried_again_and_holds_up_nobody() -> None:
    gone = SyncView(deltas=(delta("b", 1),), removed_codebooks=(name_of("a"),))
    scene = Scene(SyncView(deltas=(delta("a", 1),)), gone, SyncView(removed_codebooks=(name_of("a"),)))
    scene.step()
    scene.engine.refuse["a"] = "internal"
    scene.step()
    assert scene.served.model_names() == ["base@a", "base@b"]
    assert len(scene.client.beats) == 2
    scene.engine.refuse.clear()
    scene.step()
    assert scene.known() == {"a": 1, "b": 1}
    assert scene.served.model_names() == ["base@b"]


def test_a_silent_control_plane_is_no_contact() -> None:
    scene = Scene(Unavailable("gone."))
    with pytest.raises(Unavailable):
        scene.step()
    assert scene.served.stale
    assert scene.client.beats == []


def test_a_server_whose_heartbeats_fail_goes_stale_though_its_syncs_work() -> None:
    """It no longer counts for SERVING, so it must not go on answering with what may be an old revision."""
    scene = Scene(SyncView(deltas=(delta("a", 1),)))
    scene.step()

    def refused() -> None:
        raise Unavailable("gone.")

    scene.client.on_beat = refused
    scene.clock.now += 29.0
    with pytest.raises(Unavailable):
        scene.step()
    assert not scene.served.stale
    scene.clock.now += 2.0
    assert scene.served.stale


def test_no_failure_ends_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(Unavailable("gone."), SyncView(deltas=(delta("a", 1),)), SyncView(deltas=(delta("a", 1),)))
    surprises = [LookupError("surprise")]
    apply = scene.engine.apply

    async def surprising(news: DeltaView) -> None:
        if surprises:
            raise surprises.pop()
        await apply(news)

    monkeypatch.setattr(scene.engine, "apply", surprising)

    async def until_it_serves() -> None:
        beaten, loop = asyncio.Event(), asyncio.get_running_loop()
        scene.client.on_beat = lambda: loop.call_soon_threadsafe(beaten.set)
        task = asyncio.create_task(scene.agent.run())
        await beaten.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(until_it_serves(), timeout=10))
    assert not surprises
    assert scene.client.beats[0]["applied"] == {name_of("a"): 1}
