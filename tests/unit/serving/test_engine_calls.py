"""The engine as the sync agent sees it: what is sent to the workers, in which order, and their refusals as errors."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import DataLoss, FailedPrecondition, Unavailable
from horen_vllm.ids import EditId
from horen_vllm.serving.engine import Engine, site_of
from horen_vllm.serving.packing import PackedUpdate
from tests.unit.serving.doubles import name_of

PARAMETERS = MethodParameters(preset="cosine", threshold=0.9)
PACKED = PackedUpdate(path=Path("/packs/t.pack"), sha256="ab" * 32, probes=(), without_probe=0)


class Client:
    """vLLM's engine client with two workers, which answer what `replies` has for a call (else nothing special)."""

    def __init__(self, **replies: Callable[[int], list[dict[str, Any]]]) -> None:
        self.replies = replies
        self.calls: list[tuple[str, Any]] = []

    async def collective_rpc(self, method: str, args: tuple[str]) -> list[str]:
        [text] = args
        asked = sum(call == method for call, _ in self.calls)
        self.calls.append((method, json.loads(text)))
        answers = self.replies[method](asked) if method in self.replies else [{}, {}]
        return [json.dumps(answer) for answer in answers]


def refused(code: str, kind: str = "FailedPrecondition") -> dict[str, Any]:
    return {"error": {"class": kind, "code": code, "message": "No."}}


def delta() -> Any:
    book = SimpleNamespace(name=name_of("a"), parameters=PARAMETERS, fingerprint="f")
    return SimpleNamespace(codebook=book, base=2, revision=3, added=(), removed=(EditId("e0"),))


def stage(client: Client, timeout_s: float = 5.0) -> None:
    asyncio.run(Engine(client, stage_timeout_s=timeout_s).stage(delta(), PACKED, "t"))


def test_an_update_is_staged_in_plain_types_until_every_worker_has_it() -> None:
    states = [("staging", "staging"), ("staged", "staging"), ("staged", "staged")]
    client = Client(horen_staged=lambda asked: [{"ticket": "t", "state": state} for state in states[asked]])
    stage(client)
    (method, update), *questions = client.calls
    assert method == "horen_stage"
    assert MethodParameters.from_dict(update.pop("parameters")) == PARAMETERS
    assert update == {
        "ticket": "t",
        "codebook": str(name_of("a")),
        "base_revision": 2,
        "revision": 3,
        "fingerprint": "f",
        "pack": "/packs/t.pack",
        "sha256": "ab" * 32,
        "removed": ["e0"],
    }
    assert questions == [("horen_staged", {"ticket": "t"})] * 3


def test_one_worker_that_cannot_stage_refuses_the_update_with_its_class_and_code() -> None:
    failed = {"ticket": "t", "state": "failed", **refused("artifact_corrupt", "DataLoss")}
    client = Client(horen_staged=lambda _: [{"ticket": "t", "state": "staged"}, failed])
    with pytest.raises(DataLoss) as caught:
        stage(client)
    assert caught.value.code == "artifact_corrupt"


def test_staging_is_bounded() -> None:
    client = Client(horen_staged=lambda _: [{"ticket": "t", "state": "staging"}] * 2)
    with pytest.raises(Unavailable) as caught:
        stage(client, timeout_s=0.03)
    assert caught.value.code == "stage_timeout"


def rank_at(sequence: int, **applied: int) -> dict[str, Any]:
    return {"applied": applied, "sequence": sequence, "tickets": []}


def test_flips_and_drops_are_numbered_on_from_where_the_workers_are() -> None:
    client = Client(horen_status=lambda _: [rank_at(4), rank_at(7)])

    async def script() -> None:
        engine = Engine(client, stage_timeout_s=1.0)
        await engine.take_over()
        await asyncio.gather(engine.flip("t"), engine.drop("b"), engine.flip("u"))

    asyncio.run(script())
    assert client.calls[1:] == [
        ("horen_flip", {"ticket": "t", "sequence": 8}),
        ("horen_drop", {"codebook": "b", "sequence": 9}),
        ("horen_flip", {"ticket": "u", "sequence": 10}),
    ]


def test_a_number_that_is_too_old_is_renewed_for_the_next_call() -> None:
    client = Client(
        horen_flip=lambda asked: [{}, {}] if asked else [refused("stale_update")] * 2,
        horen_status=lambda _: [rank_at(50)] * 2,
    )

    async def script() -> None:
        engine = Engine(client, stage_timeout_s=1.0)
        with pytest.raises(FailedPrecondition):
            await engine.flip("t")
        await engine.flip("t")

    asyncio.run(script())
    assert [body["sequence"] for method, body in client.calls if method == "horen_flip"] == [1, 51]


def test_what_the_workers_disagree_on_is_not_taken_over() -> None:
    ranks = [rank_at(0, a=1, b=2), rank_at(0, a=1, b=3, c=1)]
    client = Client(horen_status=lambda _: ranks)
    assert asyncio.run(Engine(client, stage_timeout_s=1.0).take_over()) == {"a": 1}


def test_what_another_agent_had_staged_is_given_back() -> None:
    ranks = [{**rank_at(0), "tickets": ["left"]}, rank_at(0)]
    client = Client(horen_status=lambda _: ranks)
    asyncio.run(Engine(client, stage_timeout_s=1.0).take_over())
    assert client.calls[1:] == [("horen_unstage", {"ticket": "left"})]


@pytest.mark.parametrize("answers", [[refused("internal"), {}], [{}, refused("internal")]])
def test_one_workers_refusal_refuses_the_call(answers: list[dict[str, Any]]) -> None:
    client = Client(horen_unstage=lambda _: answers)
    with pytest.raises(FailedPrecondition, match=r"No\."):
        asyncio.run(Engine(client, stage_timeout_s=1.0).unstage("t"))


def test_the_status_is_the_first_workers() -> None:
    client = Client(horen_status=lambda _: [{"applied": {"a": 1}}, {"applied": {}}])
    assert asyncio.run(Engine(client, stage_timeout_s=1.0).status()) == {"applied": {"a": 1}}


def engine_client(config: Any) -> Any:
    return SimpleNamespace(vllm_config=SimpleNamespace(additional_config=config))


def test_the_site_is_read_from_the_running_engine() -> None:
    assert site_of(engine_client({"horen": {"site": "layer"}})) == "layer"


@pytest.mark.parametrize("config", [None, {}, {"other": 1}])
def test_an_engine_without_a_site_is_refused(config: Any) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        site_of(engine_client(config))
    assert caught.value.code == "no_edit_site"
