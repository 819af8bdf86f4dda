"""What an API server serves codebooks from: a control plane, or a folder that never changes."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from horen_vllm.errors import FailedPrecondition
from horen_vllm.serving.codebooks import ServedCodebook, ServedCodebooks
from horen_vllm.serving.control import control_client
from horen_vllm.serving.election import Election, clear_run_folders, engine_key, run_folder
from horen_vllm.serving.engine import Engine
from horen_vllm.serving.live import LiveUpdates
from horen_vllm.serving.observer import Observer
from horen_vllm.serving.packer import Packer
from horen_vllm.serving.probe import Ask, Prober
from horen_vllm.serving.settings import ServingSettings
from horen_vllm.serving.state import AgentState, StateFile
from horen_vllm.serving.sync import SyncAgent
from horen_vllm.static import list_static


def live_updates(
    *,
    engine_client: Any,
    control: str,
    settings: ServingSettings,
    served: ServedCodebooks,
    ask: Ask,
    observer: Observer,
    model: str,
    fingerprint: str,
) -> LiveUpdates:
    """Return this API server's part in keeping the engine up to date with the control plane at `control`.

    Raises
    ------
    InvalidArgument
        ``invalid_artifacts_url``.
    FailedPrecondition
        ``run_folder_unsafe``; ``artifact_driver_missing``.
    """
    key = engine_key(engine_client)
    folder = run_folder(settings.run_dir, key)
    packer = Packer(artifacts=settings.artifact_source(), folder=settings.packs_folder(), owner=key)
    client = control_client(control, settings)

    async def lead(state: AgentState | None, publish: Callable[[AgentState], None]) -> None:
        clear_run_folders(folder)
        agent = SyncAgent(
            client=client,
            engine=Engine(engine_client, stage_timeout_s=settings.stage_timeout_s),
            packer=packer,
            prober=Prober(ask, bos_id=engine_client.renderer.get_bos_token_id()),
            publish=publish,
            observer=observer,
            settings=settings,
            model=model,
            fingerprint=fingerprint,
        )
        async with aclosing(packer):
            await agent.run(state)

    return LiveUpdates(election=Election(folder), file=StateFile(folder), served=served, lead=lead)


def static_dir_of(engine_client: Any) -> Path | None:
    """Return the folder of static codebooks that the engine was started with."""
    section = (engine_client.vllm_config.additional_config or {}).get("horen") or {}
    named = section.get("static_dir")
    return Path(named) if named else None


async def serve_static(folder: Path, served: ServedCodebooks, settings: ServingSettings) -> None:
    """Answer for the codebooks in `folder`, which every worker has applied before it reported ready.

    Raises
    ------
    FailedPrecondition
        ``static_dir_with_control``.
    NotFound, DataLoss
        As `list_static`.
    """
    if settings.control is not None:
        message = (
            f"additional_config.horen.static_dir = {str(folder)!r} and HOREN_CONTROL = {settings.control!r} exclude "
            "each other: codebooks come from a folder or from a control plane."
        )
        raise FailedPrecondition(message, code="static_dir_with_control")
    described = await asyncio.to_thread(list_static, folder)
    served.show_static(
        ServedCodebook(
            name=it.name, revision=it.revision, window_ratio=it.parameters.window_ratio, span=it.parameters.span
        )
        for it in described
    )
