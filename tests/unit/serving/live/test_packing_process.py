"""The process that packs large updates is kept for the next one, and nothing of one update reaches another."""

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.errors import HorenError, Internal
from horen_vllm.serving.packing import PackOrder, order_to_json, packed_from_json
from horen_vllm.serving.packing_process import PackingProcess

from .test_packing import order, ref


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFolder:
    return ArtifactFolder(tmp_path / "artifacts")


@pytest.fixture
def asked(tmp_path: Path, artifacts: ArtifactFolder) -> PackOrder:
    return order(tmp_path, ref(artifacts, 1))


def test_one_process_answers_one_order_after_the_other(asked: PackOrder) -> None:
    async def ask_twice() -> tuple[set[int | None], set[str]]:
        pids, hashes = set(), set()
        async with aclosing(PackingProcess()) as process:
            for _ in range(2):
                hashes.add(packed_from_json(await process.ask(order_to_json(asked))).sha256)
                pids.add(process.pid)
        return pids, hashes

    pids, hashes = asyncio.run(ask_twice())
    assert len(pids) == len(hashes) == 1


def test_a_refusal_leaves_the_process_to_the_next_order(asked: PackOrder, tmp_path: Path) -> None:
    missing = order_to_json(asked).replace(asked.entries[0].artifact, "0" * 64)

    async def ask() -> None:
        async with aclosing(PackingProcess()) as process:
            with pytest.raises(HorenError) as caught:
                packed_from_json(await process.ask(missing))
            assert caught.value.code == "unknown_artifact"
            assert packed_from_json(await process.ask(order_to_json(asked))).path.exists()

    asyncio.run(ask())


def test_it_ends_when_no_order_comes(asked: PackOrder) -> None:
    async def ask() -> None:
        async with aclosing(PackingProcess(idle_s=0.0)) as process:
            await process.ask(order_to_json(asked))
            pid = process.pid
            while process.pid is not None:  # noqa: ASYNC110 - the loop's own timer is what is waited for
                await asyncio.sleep(0.01)
            await process.ask(order_to_json(asked))
            assert process.pid != pid

    asyncio.run(asyncio.wait_for(ask(), 120))


def test_a_killed_process_is_reported_and_replaced(asked: PackOrder) -> None:
    async def ask() -> None:
        async with aclosing(PackingProcess()) as process:
            await process.ask(order_to_json(asked))
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            lost = asyncio.create_task(process.ask(order_to_json(asked)))
            await asyncio.sleep(0)
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(Internal):
                await lost
            assert packed_from_json(await process.ask(order_to_json(asked))).path.exists()

    asyncio.run(asyncio.wait_for(ask(), 120))


def test_the_answer_to_an_order_that_was_given_up_is_nobody_elses(asked: PackOrder, artifacts: ArtifactFolder) -> None:
    other = order(asked.target.parent.parent, ref(artifacts, 2))

    async def ask() -> None:
        async with aclosing(PackingProcess()) as process:
            await process.ask(order_to_json(asked))
            given_up = asyncio.create_task(process.ask(order_to_json(asked)))
            await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            packed = packed_from_json(await process.ask(order_to_json(other)))
            assert [probe.edit_id for probe in packed.probes] == [other.entries[0].edit_id]

    asyncio.run(asyncio.wait_for(ask(), 120))
