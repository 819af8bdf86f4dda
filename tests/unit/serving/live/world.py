"""A control plane on SQLite, artifacts on disk, and an engine that keeps the workers' side in memory."""

import asyncio
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from horen_vllm.artifact import EntryArtifact, EntryManifest, encode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.artifacts.opening import ArtifactSource
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.pack import read_pack
from horen_vllm.plugin.tag import RequestTag
from horen_vllm.registry.models import EditRecord, EditSpec, Publication
from horen_vllm.registry.ports import Registry
from horen_vllm.serving.engine import Engine
from horen_vllm.serving.packer import Packer
from horen_vllm.serving.probe import Greedy, Prober
from horen_vllm.serving.settings import ServingSettings
from horen_vllm.serving.state import AgentState
from horen_vllm.serving.sync import SyncAgent

FINGERPRINT = "f" * 64
PARAMETERS = MethodParameters(preset="cosine", threshold=0.9)


def book(name: str) -> CodebookName:
    return CodebookName(DEFAULT_TENANT, name)


def entry(edit_id: str, prompt: str, target: str, *, probe: bool = True, fingerprint: str = FINGERPRINT) -> bytes:
    """Return the file of an entry; token ids are character codes."""
    manifest = EntryManifest(
        edit_id=edit_id,
        fingerprint=fingerprint,
        site="s",
        value_mode=ValueMode.LAST,
        span=1,
        chunk=1,
        target_ids=ids(target),
        normalised_prompt=prompt,
        trained_end=False,
        loss=0.0,
        steps=1,
        probe_ids=ids(prompt) if probe else (),
    )
    key = torch.nn.functional.one_hot(torch.tensor([len(prompt) % 4]), 4).float()
    return encode_entry(EntryArtifact(keys=key, values=torch.ones(1, 4), manifest=manifest))


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


@dataclass
class Rank:
    """One worker."""

    applied: dict[str, int] = field(default_factory=dict)
    entries: dict[str, dict[str, int]] = field(default_factory=dict)
    """Sequence by edit id, by codebook."""
    staged: dict[str, dict[str, Any]] = field(default_factory=dict)
    sequence: int = 0

    def answer(self, call: str, body: dict[str, Any], refuse: dict[str, str]) -> dict[str, Any]:
        return {
            "horen_stage": self._stage,
            "horen_staged": self._staged,
            "horen_flip": self._flip,
            "horen_unstage": self._unstage,
            "horen_drop": self._drop,
            "horen_status": lambda *_: {
                "applied": self.applied,
                "sequence": self.sequence,
                "tickets": list(self.staged),
            },
        }[call](body, refuse)

    def _stage(self, body: dict[str, Any], refuse: dict[str, str]) -> dict[str, Any]:
        rows = read_pack(Path(body["pack"]), body["sha256"]).rows
        code = refuse.get(CodebookName.parse(body["codebook"]).codebook)
        self.staged[body["ticket"]] = {**body, "rows": rows, "code": code}
        return {"ticket": body["ticket"], "state": "staging"}

    def _staged(self, body: dict[str, Any], _: object) -> dict[str, Any]:
        staged = self.staged[body["ticket"]]
        code = None if staged["code"] == "space_missing" and not staged["base_revision"] else staged["code"]
        if code == "never":
            return {"ticket": body["ticket"], "state": "staging"}
        if code and code != "revision_gap":
            return {"ticket": body["ticket"], "state": "failed", **refusal(code)}
        return {"ticket": body["ticket"], "state": "staged"}

    def _flip(self, body: dict[str, Any], _: object) -> dict[str, Any]:
        if body["sequence"] <= self.sequence:
            return refusal("stale_update")
        self.sequence = body["sequence"]
        update = self.staged.pop(body["ticket"])
        name, base = update["codebook"], update["base_revision"]
        if base not in {0, self.applied.get(name, 0)} or (update["code"] and base):
            return refusal("revision_gap")
        kept = {} if base == 0 else self.entries.get(name, {})
        added = {row.edit_id: row.sequence for row in update["rows"]}
        self.entries[name] = {edit: at for edit, at in kept.items() if edit not in update["removed"]} | added
        self.applied[name] = update["revision"]
        return {"codebook": name, "revision": update["revision"]}

    def _unstage(self, body: dict[str, Any], _: object) -> dict[str, Any]:
        self.staged.pop(body["ticket"], None)
        return {}

    def _drop(self, body: dict[str, Any], _: object) -> dict[str, Any]:
        self.sequence = body["sequence"]
        self.applied.pop(body["codebook"], None)
        self.entries.pop(body["codebook"], None)
        return {}


def refusal(code: str) -> dict[str, Any]:
    return {"error": {"class": "FailedPrecondition", "code": code, "message": f"No: {code}."}}


class EngineClient:
    """vLLM's engine client with two workers, which outlives the agents that speak through it."""

    def __init__(self) -> None:
        self.ranks = [Rank(), Rank()]
        self.calls: list[str] = []
        self.refuse: dict[str, str] = {}
        """Code with which the updates of a codebook are refused; ``never``: they are never staged."""
        self.mute: Callable[[str], bool] = lambda _edit: False
        """Which edits do not fire."""
        self.targets: dict[str, tuple[int, ...]] = {}
        self.prompts: dict[str, tuple[int, ...]] = {}

    async def collective_rpc(self, method: str, args: tuple[str]) -> list[str]:
        self.calls.append(method)
        await asyncio.sleep(0)
        return [json.dumps(rank.answer(method, json.loads(args[0]), self.refuse)) for rank in self.ranks]

    async def ask(self, prompt_ids: list[int], tokens: int, tag: RequestTag) -> Greedy:
        held = self.ranks[0].entries[tag.codebook]
        fit = [edit for edit in held if self.prompts[edit] == tuple(prompt_ids) and not self.mute(edit)]
        edit = max(fit, key=held.__getitem__, default=None)
        report = {"codebook": tag.codebook, "edit_id": edit, "score": 0.5, "threshold": 0.9}
        return Greedy(self.targets[edit][:tokens] if edit else (0,) * tokens, report)

    def applied(self) -> dict[str, int]:
        first, second = ({CodebookName.parse(n).codebook: r for n, r in rank.applied.items()} for rank in self.ranks)
        assert first == second
        return first


class Counter:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def flipped(self, name: CodebookName, revision: int) -> None:
        self.told.append(("flipped", name.codebook, revision))

    def staging_refused(self, name: CodebookName, code: str) -> None:
        self.told.append(("refused", name.codebook, code))

    def latest(self, name: CodebookName, revision: int) -> None:
        self.told.append(("latest", name.codebook, revision))

    def sync_failed(self, code: str) -> None:
        self.told.append(("failed", code))


@dataclass
class World:
    """Everything around an agent."""

    registry: Registry
    control_settings: ControlSettings
    folder: Path
    server: ControlServer
    engine: EngineClient = field(default_factory=EngineClient)
    observer: Counter = field(default_factory=Counter)
    states: list[AgentState] = field(default_factory=list)

    @property
    def artifacts(self) -> ArtifactFolder:
        return ArtifactFolder(self.folder / "artifacts")

    @property
    def packs(self) -> Path:
        return self.folder / "packs"

    @property
    def state(self) -> AgentState:
        return self.states[-1]

    @property
    def address(self) -> str:
        return self.server.address

    async def stop_server(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def start_server(self) -> None:
        """Start the control plane again, where it was."""
        again = replace(self.control_settings, port=self.server.port)
        self.server = await asyncio.to_thread(serve, self.registry, again)

    @functools.cached_property
    def client(self) -> HorenClient:
        return HorenClient(self.address, timeout_s=5.0)

    def create(self, name: str) -> CodebookName:
        self.registry.create_codebook(book(name), model="m", fingerprint=FINGERPRINT, site="s", parameters=PARAMETERS)
        return book(name)

    def publish(self, name: str, prompt: str, target: str, **manifest: Any) -> EditRecord:
        """Publish an edit whose entry fires on its prompt."""
        edit = self.registry.submit(book(name), EditSpec(prompt=prompt, target=target))
        (claim,) = self.registry.claim("worker", lease_s=30, fingerprint=FINGERPRINT)
        artifact = self.artifacts.put(entry(edit.edit_id, prompt, target, **manifest))
        self.engine.prompts[edit.edit_id], self.engine.targets[edit.edit_id] = ids(prompt), ids(target)
        base = self.registry.get_codebook(book(name)).revision
        (edit,) = self.registry.publish([(claim, Publication(artifact=artifact, base_revision=base))])
        return edit

    def agent(self, publish: Callable[[AgentState], None] | None = None, **settings: Any) -> SyncAgent:
        options = {"replica_id": "r1", "sync_wait_s": 0.1, "lease_s": 30.0, **settings}
        return SyncAgent(
            client=self.client,
            engine=Engine(self.engine, stage_timeout_s=options.pop("stage_timeout_s", 5.0)),
            packer=Packer(
                artifacts=ArtifactSource(location=str(self.folder / "artifacts")), folder=self.packs, owner="me"
            ),
            prober=Prober(self.engine.ask, bos_id=None),
            publish=publish or self.states.append,
            observer=self.observer,
            settings=ServingSettings(**options),
            model="m",
            fingerprint=FINGERPRINT,
        )

    async def running(self, script: Callable[[], Any], state: AgentState | None = None, **settings: Any) -> None:
        """Run an agent while `script` runs."""
        task = asyncio.create_task(self.agent(**settings).run(state))
        try:
            await script()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - what is waited for lies in several processes
                await asyncio.sleep(0.01)

    def confirmed(self) -> bool:
        return bool(self.states) and self.state.confirmed_at is not None

    def serving(self, name: str, revision: int) -> bool:
        view = self.client.get_codebook(book(name))
        return view.revision == revision and view.serving
