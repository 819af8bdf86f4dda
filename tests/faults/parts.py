"""The processes of an installation, without a model: what each of them runs. `plant` starts, kills and restarts them.

The control plane, the registry, the artifact folder and the sync agent are the real ones. The worker makes entries
without training, by what the prompt says; the replica's engine keeps entries in memory.
"""

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TextIO

import structlog

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.artifacts.opening import ArtifactSource
from horen_vllm.control.client import HorenClient
from horen_vllm.control.messages import DeltaView
from horen_vllm.control.server import serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.errors import HorenError
from horen_vllm.failpoints import arm
from horen_vllm.registry import migrate  # noqa: F401 - preloaded: every control plane checks its schema
from horen_vllm.registry.models import Claim, Publication
from horen_vllm.registry.store import SqlRegistry
from horen_vllm.serving import lane, packer, sync
from horen_vllm.serving.engine import Engine
from horen_vllm.serving.packer import Packer
from horen_vllm.serving.packing import PackedUpdate
from horen_vllm.serving.probe import Prober
from horen_vllm.serving.settings import ServingSettings
from horen_vllm.serving.state import AgentState
from horen_vllm.serving.sync import SyncAgent
from tests.unit.serving.live.world import FINGERPRINT, Counter, EngineClient, entry

REFUSED: Final = "impossible"
"""Target that the worker refuses."""
WORKER_LEASE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Where everything is."""

    url: str
    folder: Path
    name: str = ""
    """Of the process that is told this."""
    port: int = 0
    """Of its control plane; 0: any free one."""
    replica_lease_s: float = 30.0

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def journal(self, process: str) -> Path:
        """Where a replica writes down what it does, and a worker what it was refused, one JSON object a line."""
        return self.folder / f"{process}.jsonl"


Sabotage = Callable[[], None]
"""Breaks the code of a process before it starts, to show that the checker sees it."""


def run_control(place: Installation, failpoints: str, sabotage: Sabotage | None, ready: Connection) -> None:
    """Be a control plane."""
    _begin(failpoints, sabotage)
    settings = ControlSettings(model="m", fingerprint=FINGERPRINT, site="s", port=place.port, poll_s=0.02, grace_s=0.1)
    server = serve(SqlRegistry(place.url), settings)
    ready.send(server.port)
    _wait_for_end(ready)


def run_worker(place: Installation, failpoints: str, sabotage: Sabotage | None, ready: Connection) -> None:
    """Be a worker."""
    _begin(failpoints, sabotage)
    registry, artifacts = SqlRegistry(place.url), ArtifactFolder(place.artifacts)
    refusals = Journal(place.journal(place.name))
    ready.send(0)
    threading.Thread(target=_wait_for_end, args=(ready,), daemon=True).start()
    while True:
        try:
            worked = work_once(registry, artifacts, f"{place.name} {os.getpid()}")
        except HorenError as error:
            refusals.write(code=error.code)
            worked = False
        if not worked:
            time.sleep(0.02)


def run_replica(place: Installation, failpoints: str, sabotage: Sabotage | None, ready: Connection) -> None:
    """Be a server."""
    _begin(failpoints, sabotage)
    # Entries are small here: none needs a process of its own, nor a long pause after a failure.
    packer.INLINE_ENTRIES = 10_000  # type: ignore[misc]
    lane.FIRST_PAUSE_S = sync.RETRY_S = 0.05  # type: ignore[misc]
    threading.Thread(target=_wait_for_end, args=(ready,), daemon=True).start()
    asyncio.run(_replica(place, ready))


def work_once(registry: SqlRegistry, artifacts: ArtifactFolder, worker: str) -> bool:
    """Take the next edits and close them: published, as already there, or failed; False when there are none.

    Then set the thresholds that are due.
    """
    claims = registry.claim(worker, lease_s=WORKER_LEASE_S, fingerprint=FINGERPRINT, limit=2)
    for claim in claims:
        _close(registry, artifacts, claim)
    for name in registry.thresholds_due(FINGERPRINT):
        codebook = registry.get_codebook(name)
        threshold = threshold_for(codebook.entry_count)
        registry.set_threshold(name, base_revision=codebook.revision, threshold=threshold)
    return bool(claims)


def threshold_for(entries: int) -> float:
    """Return c of a codebook, which follows its size."""
    return 0.5 + entries / 100


def _close(registry: SqlRegistry, artifacts: ArtifactFolder, claim: Claim) -> None:
    edit = claim.edit
    if edit.spec.target == REFUSED:
        registry.fail(claim, "target_refused", "Nobody can say that.")
        return
    codebook = registry.get_codebook(edit.codebook)
    there = [registry.get_edit(it.edit_id) for it in registry.entries(edit.codebook, codebook.revision)]
    same_prompt = [it for it in there if it.spec.prompt == edit.spec.prompt]
    for it in same_prompt:
        if it.spec.target == edit.spec.target:
            registry.finish_same(claim, it.edit_id)
            return
    data = entry(edit.edit_id, edit.spec.prompt, edit.spec.target)
    publication = Publication(
        artifact=artifacts.put(data),
        base_revision=codebook.revision,
        supersedes=tuple(it.edit_id for it in same_prompt),
        threshold=threshold_for(codebook.entry_count + 1 - len(same_prompt)),
    )
    registry.publish([(claim, publication)])


class JournaledEngine(EngineClient):
    """An engine in memory that writes down each flip before it says that it has flipped."""

    def __init__(self, journal: "Journal") -> None:
        super().__init__()
        self._journal = journal

    async def collective_rpc(self, method: str, args: tuple[str]) -> list[str]:
        answers = await super().collective_rpc(method, args)
        if method == "horen_flip":
            for name, revision in self.ranks[0].applied.items():
                entries = sorted(self.ranks[0].entries[name])
                self._journal.write(flip=name, revision=revision, entries=entries)
        return answers


class AskablePacker(Packer):
    """Tells the engine what edits it will be asked about; a real one knows by its values."""

    def __init__(self, *, engine: EngineClient, artifacts: Path, folder: Path, owner: str) -> None:
        super().__init__(artifacts=ArtifactSource(location=str(artifacts)), folder=folder, owner=owner)
        self._engine = engine

    async def pack(self, delta: DeltaView, ticket: str) -> PackedUpdate:
        packed = await super().pack(delta, ticket)
        for probe in packed.probes:
            self._engine.prompts[probe.edit_id] = probe.prompt_ids
            self._engine.targets[probe.edit_id] = probe.target_ids
        return packed


class Journal:
    """What a process does, with the time by the machine's monotonic clock."""

    def __init__(self, path: Path) -> None:
        # Line by line, so that what was written is there when the process is killed.
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)

    def write(self, **fields: Any) -> None:
        self._file.write(json.dumps({"at": time.monotonic(), "life": os.getpid(), **fields}) + "\n")

    def state(self, state: AgentState) -> None:
        """Write down what the server answers for."""
        books = {str(name): [it.applied, it.owed] for name, it in state.codebooks.items() if it.applied}
        self.write(confirmed_at=state.confirmed_at, books=books)


async def _replica(place: Installation, ready: Connection) -> None:
    journal = Journal(place.journal(place.name))
    journal.write(born=True)
    engine = JournaledEngine(journal)
    with HorenClient(f"127.0.0.1:{place.port}", timeout_s=2.0) as client:
        agent = SyncAgent(
            client=client,
            engine=Engine(engine, stage_timeout_s=5.0),
            packer=AskablePacker(
                engine=engine, artifacts=place.artifacts, folder=place.folder / "packs", owner=place.name
            ),
            prober=Prober(engine.ask, bos_id=None),
            publish=journal.state,
            observer=Counter(),
            settings=ServingSettings(replica_id=place.name, sync_wait_s=1.0, lease_s=place.replica_lease_s),
            model="m",
            fingerprint=FINGERPRINT,
        )
        ready.send(0)
        await agent.run(None)


def _begin(failpoints: str, sabotage: Sabotage | None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if sabotage is not None:
        sabotage()
    arm(failpoints)


def _wait_for_end(parent: Connection) -> None:
    """End the process with the one that started it, however that ends."""
    try:
        parent.recv()
    except EOFError:
        os._exit(0)
