"""Calls that reach every worker between two engine steps (``collective_rpc``): updates in two phases, and status.

Requests and answers are JSON text: vLLM's transport carries plain types only.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import FailedPrecondition, HorenError, Internal
from horen_vllm.pack import read_pack
from horen_vllm.plugin.breath import breathing
from horen_vllm.plugin.codebooks import Update
from horen_vllm.plugin.counters import compilation_counts
from horen_vllm.plugin.engine_half import EngineHalf, half_of

log = structlog.get_logger(__name__)


def install(worker_class: Any) -> None:
    """Add the calls to vLLM's worker class."""
    for call in (stage, staged, flip, unstage, drop, status):
        setattr(worker_class, f"horen_{call.__name__}", _answering(call))


def stage(half: EngineHalf, update: dict[str, Any]) -> dict[str, Any]:
    """Begin to read an update's pack and to copy it into free rows, beside the engine's steps.

    `update` has ``ticket``, ``codebook``, ``base_revision``, ``revision``, ``fingerprint``, ``parameters``, ``pack``
    (path), ``sha256`` and ``removed`` (edit ids). What goes wrong is reported by `staged`.
    """
    half.stager.stage(update["ticket"], update["base_revision"], lambda: _load(update))
    return {"ticket": update["ticket"], "state": "staging"}


def staged(half: EngineHalf, body: dict[str, Any]) -> dict[str, Any]:
    """Return how far the update ``ticket`` has come; NotFound ``unknown_ticket``."""
    found = half.stager.staged(body["ticket"])
    answer: dict[str, Any] = {"ticket": body["ticket"], "state": str(found.state)}
    return answer if found.error is None else {**answer, "error": _error(found.error)}


def flip(half: EngineHalf, body: dict[str, Any]) -> dict[str, Any]:
    """Make the staged update ``ticket`` current; raises as `Stager.flip`."""
    began = time.perf_counter()
    view = half.stager.flip(body["ticket"], body["sequence"])
    half.flip_seconds = time.perf_counter() - began
    return {"codebook": view.codebook, "revision": view.revision}


def unstage(half: EngineHalf, body: dict[str, Any]) -> dict[str, Any]:
    """Forget the update ``ticket`` and give its rows back."""
    half.stager.unstage(body["ticket"])
    return {"ticket": body["ticket"]}


def drop(half: EngineHalf, body: dict[str, Any]) -> dict[str, Any]:
    """Remove ``codebook``; its live requests keep their revision."""
    half.stager.take_sequence(body["sequence"])
    half.site.codebooks.drop(body["codebook"])
    return {"codebook": body["codebook"]}


def status(half: EngineHalf, _body: dict[str, Any]) -> dict[str, Any]:
    """Return what is applied, what it takes, and what has run so far."""
    site, applied = half.site, half.site.codebooks.applied()
    return {
        "applied": {name: view.revision for name, view in applied.items()},
        "entries": {name: len(view.edit_ids) for name, view in applied.items()},
        "live_requests": len(site.requests),
        "sequence": half.stager.sequence,
        "tickets": half.stager.tickets,
        "pages": site.codebooks.store.pages(),
        "routing": {"requests": site.routed, "seconds": site.routing_seconds},
        "flip_seconds": half.flip_seconds,
        "op_calls": site.op_calls,
        **compilation_counts(),
    }


def _load(update: dict[str, Any]) -> Update:
    pack = read_pack(Path(update["pack"]), update["sha256"], breathing)
    for row in pack.rows:
        if row.fingerprint != update["fingerprint"]:
            message = f"entry {row.edit_id} was trained on another base model than this server's."
            raise FailedPrecondition(message, code="fingerprint_mismatch")
    return Update(
        codebook=update["codebook"],
        base_revision=update["base_revision"],
        revision=update["revision"],
        parameters=MethodParameters.from_dict(update["parameters"]),
        added=pack,
        removed=update["removed"],
    )


def _answering(call: Callable[[EngineHalf, dict[str, Any]], dict[str, Any]]) -> Callable[[Any, str], str]:
    def answer(worker: Any, text: str = "{}") -> str:
        # An exception would end the engine, and one codebook must not hold up the others.
        try:
            return json.dumps(call(half_of(worker), json.loads(text)))
        except HorenError as error:
            return json.dumps({"error": _error(error)})
        except Exception as exc:
            log.exception("call failed", call=call.__name__)
            message = f"{call.__name__} failed with {type(exc).__name__}; the worker's log has the details."
            return json.dumps({"error": _error(Internal(message))})

    return answer


def _error(error: HorenError) -> dict[str, str]:
    return {"class": type(error).__name__, "code": error.code, "message": error.message}
