"""The engine as the sync agent sees it: what is sent to the workers, and their refusals as errors."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.artifact import ArtifactFolder
from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import DataLoss, FailedPrecondition
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EntryRef
from horen_vllm.serving.engine import Engine, site_of
from tests.unit.serving.doubles import name_of

DIGEST = "ab" * 32


class Client:
    """vLLM's engine client with two workers."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = [json.dumps(answer) for answer in answers]
        self.calls: list[tuple[str, Any]] = []

    async def collective_rpc(self, method: str, args: tuple[str]) -> list[str]:
        [text] = args
        self.calls.append((method, json.loads(text)))
        return self.answers


def refused(code: str, kind: str = "FailedPrecondition") -> dict[str, Any]:
    return {"error": {"class": kind, "code": code, "message": "No."}}


def test_an_update_is_sent_in_plain_types_with_paths(tmp_path: Path) -> None:
    client, parameters = Client({}, {}), MethodParameters(preset="cosine", threshold=0.9)
    added = (EntryRef(edit_id=EditId("e1"), sequence=7, artifact=DIGEST),)
    book = SimpleNamespace(name=name_of("a"), parameters=parameters, fingerprint="f")
    delta: Any = SimpleNamespace(codebook=book, base=2, revision=3, added=added, removed=(EditId("e0"),))
    asyncio.run(Engine(client, ArtifactFolder(tmp_path)).apply(delta))
    [(method, update)] = client.calls
    assert method == "horen_apply"
    assert MethodParameters.from_dict(update.pop("parameters")) == parameters
    assert update == {
        "codebook": str(name_of("a")),
        "base_revision": 2,
        "revision": 3,
        "fingerprint": "f",
        "added": [
            {
                "edit_id": "e1",
                "sequence": 7,
                "artifact": DIGEST,
                "path": str(tmp_path / "ab" / f"{DIGEST}.safetensors"),
            }
        ],
        "removed": ["e0"],
    }


@pytest.mark.parametrize("answers", [(refused("capacity_exhausted"), {}), ({}, refused("capacity_exhausted"))])
def test_one_workers_refusal_refuses_the_call(tmp_path: Path, answers: tuple[dict[str, Any], ...]) -> None:
    client = Client(*answers)
    with pytest.raises(FailedPrecondition, match=r"No\.") as caught:
        asyncio.run(Engine(client, ArtifactFolder(tmp_path)).drop(str(name_of("a"))))
    assert caught.value.code == "capacity_exhausted"
    assert client.calls == [("horen_drop", {"codebook": str(name_of("a"))})]


def test_a_refusal_keeps_its_class(tmp_path: Path) -> None:
    client = Client(refused("artifact_corrupt", "DataLoss"))
    with pytest.raises(DataLoss):
        asyncio.run(Engine(client, ArtifactFolder(tmp_path)).drop("a"))


def test_the_status_is_the_first_workers(tmp_path: Path) -> None:
    client = Client({"applied": {"a": 1}}, {"applied": {}})
    assert asyncio.run(Engine(client, ArtifactFolder(tmp_path)).status()) == {"applied": {"a": 1}}


def engine_client(config: Any) -> Any:
    return SimpleNamespace(vllm_config=SimpleNamespace(additional_config=config))


def test_the_site_is_read_from_the_running_engine() -> None:
    assert site_of(engine_client({"horen": {"site": "layer"}})) == "layer"


@pytest.mark.parametrize("config", [None, {}, {"other": 1}])
def test_an_engine_without_a_site_is_refused(config: Any) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        site_of(engine_client(config))
    assert caught.value.code == "no_edit_site"
