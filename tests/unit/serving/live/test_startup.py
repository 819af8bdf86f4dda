"""From a control plane or from a folder, and never both; the server waits for what is current."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.errors import FailedPrecondition, NotFound
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.settings import ServingSettings
from horen_vllm.serving.startup import live_updates, serve_static, static_dir_of
from horen_vllm.static import StaticDescription, write_static
from tests.unit.serving.live.world import FINGERPRINT, PARAMETERS, EngineClient, World, book


class VllmClient(EngineClient):
    """The engine client with what else vLLM's has."""

    def __init__(self, *, processes: int = 1, additional_config: Any = None) -> None:
        super().__init__()
        self.vllm_config = SimpleNamespace(
            parallel_config=SimpleNamespace(_api_process_count=processes), additional_config=additional_config
        )
        self.renderer = SimpleNamespace(get_bos_token_id=lambda: None)


def table() -> ServedCodebooks:
    return ServedCodebooks(("base",), stale_after_s=30.0)


def settings(world: World, **more: Any) -> ServingSettings:
    folders = {"run_dir": world.folder / "run", "artifacts": str(world.folder / "artifacts")}
    return ServingSettings(**{"sync_wait_s": 0.1, **folders, **more})


def test_all_api_servers_of_an_engine_are_ready_once_the_current_revisions_are_served(world: World) -> None:
    """Two in one process here: for the lock and the file that makes no difference."""
    client = VllmClient(processes=2)
    world.engine = client
    world.create("a")
    world.publish("a", "who?", "Ada")
    tables = [table(), table()]

    async def script() -> None:
        lives = [
            live_updates(
                engine_client=client,
                control=world.address,
                settings=settings(world),
                served=served,
                ask=client.ask,
                observer=world.observer,
                model="m",
                fingerprint=FINGERPRINT,
            )
            for served in tables
        ]
        tasks = [asyncio.create_task(live.run()) for live in lives]
        assert await asyncio.gather(*(live.wait_ready(20.0) for live in lives)) == [True, True]
        assert sorted(live.leading for live in lives) == [False, True]
        assert [served.revisions() for served in tables] == [{book("a"): 2}] * 2
        assert [served.stale for served in tables] == [False, False]
        assert lives[0].state.codebooks == lives[1].state.codebooks
        world.publish("a", "where?", "Rome")
        await world.until(lambda: world.serving("a", 3))
        assert [served.revisions() for served in tables] == [{book("a"): 3}] * 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(script())
    assert not (world.folder / "packs").exists() or list((world.folder / "packs").iterdir()) == []


def test_without_a_control_plane_the_server_starts_stale_after_a_while(world: World) -> None:
    served = table()

    async def script() -> bool:
        live = live_updates(
            engine_client=VllmClient(),
            control="127.0.0.1:1",
            settings=settings(world),
            served=served,
            ask=world.engine.ask,
            observer=world.observer,
            model="m",
            fingerprint=FINGERPRINT,
        )
        task = asyncio.create_task(live.run())
        ready = await live.wait_ready(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return ready

    assert not asyncio.run(script())
    assert served.stale
    assert served.resolve("base") is None


@pytest.mark.parametrize(
    ("config", "folder"),
    [(None, None), ({"horen": {"site": "s"}}, None), ({"horen": {"site": "s", "static_dir": "/x"}}, Path("/x"))],
)
def test_the_folder_of_static_codebooks_is_the_engines(config: Any, folder: Path | None) -> None:
    assert static_dir_of(VllmClient(additional_config=config)) == folder


def described(**more: Any) -> StaticDescription:
    fields = {"name": book("a"), "model": "m", "fingerprint": FINGERPRINT, "site": "s", "revision": 3}
    return StaticDescription(**{**fields, "parameters": PARAMETERS, "entries": (), **more})


def test_static_codebooks_are_answered_for_without_a_control_plane(world: World) -> None:
    write_static(world.folder / "static", described(), world.artifacts)
    served = table()
    asyncio.run(serve_static(world.folder / "static", served, ServingSettings()))
    assert served.revisions() == {book("a"): 3}
    assert not served.stale
    assert served.model_names() == ["base@a"]


def test_static_codebooks_and_a_control_plane_exclude_each_other(world: World) -> None:
    with pytest.raises(FailedPrecondition, match=r"static_dir.*HOREN_CONTROL") as caught:
        asyncio.run(serve_static(world.folder, table(), ServingSettings(control="127.0.0.1:1")))
    assert caught.value.code == "static_dir_with_control"


def test_a_static_folder_that_is_not_there_ends_the_start(world: World) -> None:
    with pytest.raises(NotFound) as caught:
        asyncio.run(serve_static(world.folder / "none", table(), ServingSettings()))
    assert caught.value.code == "static_dir_missing"
