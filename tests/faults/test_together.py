"""Several of each: control planes on one database, a worker that was thought dead, a server that was cut off."""

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from horen_vllm.control.client import HorenClient
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.store import SqlRegistry
from tests.faults.checker import Evidence
from tests.faults.conftest import BOOK
from tests.faults.history import Call, Driver, Op, answered
from tests.faults.parts import Installation
from tests.faults.plant import running_plant

OPS: Final = (Op.SUBMIT, Op.SUBMIT, Op.SUBMIT, Op.ROLLBACK, Op.RETIRE, Op.SERVING)
WAIT_S: Final = 60.0


def until(holds: Callable[[], Any]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def lines(place: Installation, process: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.journal(process).read_text(encoding="utf-8").splitlines()]


def test_two_control_planes_share_a_database(place: Installation, registry: SqlRegistry) -> None:
    planes = ("control", "control2")
    parts = (*planes, "worker1", "worker2", "r1", "r2")
    armed = {"control2": "registry.submit.after_commit=kill@4", "worker1": "registry.publish.before_commit=kill@3"}
    with ExitStack() as stack:
        plant = stack.enter_context(running_plant(place, armed, parts=parts))
        clients = [
            stack.enter_context(HorenClient(f"127.0.0.1:{plant.ports[name]}", timeout_s=10.0)) for name in planes
        ]
        pool = stack.enter_context(ThreadPoolExecutor(8))
        # The same request reaches both at the same time, many times over.
        spec = EditSpec(prompt="who leads Riga?", target="Di")
        tries = [pool.submit(_submitted, clients[number % 2], spec, f"same-{number // 8}") for number in range(32)]
        calls = [it.result() for it in tries]
        users = [pool.submit(Driver(client, BOOK, seed, OPS).run_random, 10) for seed, client in enumerate(clients)]
        calls += [call for user in users for call in user.result()]
        assert set(plant.killed) <= {*armed}
        assert (plant.killed.count("control2"), plant.crashed) == (1, [])
    assert len({call.answer.edit_id for call in calls if call.request_id and call.request_id.startswith("same")}) == 4
    journals = [place.journal("r1"), place.journal("r2")]
    assert Evidence(calls, registry, BOOK, place.artifacts, journals).check() == []


def _submitted(client: HorenClient, spec: EditSpec, key: str) -> Call:
    asked_at = time.monotonic()
    view = answered(lambda: client.submit_edit(BOOK, spec, request_id=key))
    return Call(Op.SUBMIT, asked_at, time.monotonic(), view, request_id=key, asked=spec)


def test_a_worker_that_was_thought_dead_publishes_nothing(place: Installation, registry: SqlRegistry) -> None:
    armed = {"worker1": "artifact.after_sync=sleep:2.5@1"}
    with running_plant(place, armed, parts=("control", "worker1", "r1")) as plant:
        with HorenClient(f"127.0.0.1:{plant.ports['control']}", timeout_s=10.0) as client:
            user = Driver(client, BOOK, 1, OPS)
            first = answered(lambda: client.submit_edit(BOOK, EditSpec(prompt="who leads Riga?", target="Di")))
            until(lambda: any(place.artifacts.glob("*/*")))
            plant.add("worker2")
            published = client.wait_edit(first, timeout_s=WAIT_S)
            assert published.published_revision == 2
            until(lambda: any(line["code"] == "claim_lost" for line in lines(place, "worker1")))
            call = Call(Op.SUBMIT, 0.0, 0.0, first, request_id="first", asked=first.spec)
            calls = [call, *user.run_random(6)]
        assert (plant.killed, plant.crashed) == ([], [])
    assert [it.worker.split()[0] for it in registry.attempts(first.edit_id)] == ["worker1", "worker2"]
    assert Evidence(calls, registry, BOOK, place.artifacts, [place.journal("r1")]).check() == []


def test_a_server_that_was_cut_off_answers_for_nothing_until_it_has_caught_up(
    sqlite_place: Installation, open_book: Callable[[str], SqlRegistry]
) -> None:
    place = replace(sqlite_place, replica_lease_s=2.0)
    registry = open_book(place.url)
    with running_plant(place, {}, parts=("control", "worker", "r1", "r2")) as plant:
        with HorenClient(f"127.0.0.1:{plant.ports['control']}", timeout_s=10.0) as client:
            user = Driver(client, BOOK, 1, OPS)
            calls = user.run_random(2)
            until(lambda: client.get_codebook(BOOK).replicas_serving == 2)
            plant.send("r2", signal.SIGSTOP)
            # Only the other one is waited for, once this one's lease is over.
            calls = user.run_random(6)
            assert client.get_codebook(BOOK).replicas_total == 1
            missed = client.get_codebook(BOOK).revision
            woken_at = time.monotonic()
            plant.send("r2", signal.SIGCONT)
            until(lambda: client.get_codebook(BOOK).replicas_serving == 2)
            current = client.get_codebook(BOOK).revision
        assert (plant.killed, plant.crashed) == ([], [])
    journals = [place.journal("r1"), place.journal("r2")]
    assert Evidence(calls, registry, BOOK, place.artifacts, journals, lease_s=place.replica_lease_s).check() == []
    after = [line for line in lines(place, "r2") if line["at"] > woken_at and line.get("books")]
    assert after[-1]["books"][str(BOOK)][0] == current >= missed
