"""Calls that reach every worker between two engine steps (``collective_rpc``): apply an update, report status.

Requests and answers are JSON text: vLLM's transport carries plain types only.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from horen_vllm.artifact import EntryArtifact, decode_entry, read_verified
from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import DataLoss, FailedPrecondition, HorenError, Internal
from horen_vllm.plugin.attach import SITE_ATTRIBUTE
from horen_vllm.plugin.site import EditSite

log = structlog.get_logger(__name__)


def install(worker_class: Any) -> None:
    """Add the calls to vLLM's worker class."""
    worker_class.horen_apply = _answering(apply)
    worker_class.horen_drop = _answering(drop)
    worker_class.horen_status = _answering(status)


def apply(site: EditSite, text: str) -> dict[str, Any]:
    """Move one codebook to a revision.

    `text` is a JSON object: ``codebook``, ``base_revision``, ``revision``, ``fingerprint``, ``parameters``, ``added``
    (objects with ``edit_id``, ``sequence``, ``artifact``, ``path``) and ``removed`` (edit ids).

    Raises
    ------
    FailedPrecondition
        ``fingerprint_mismatch``, or as `PagedCodebooks.apply`.
    DataLoss
        ``artifact_corrupt``, ``artifact_unreadable``, or ``artifact_of_another_edit``.
    """
    update: dict[str, Any] = json.loads(text)
    added = [(int(entry["sequence"]), _read(entry, update["fingerprint"])) for entry in update["added"]]
    site.codebooks.apply(
        update["codebook"],
        base_revision=update["base_revision"],
        revision=update["revision"],
        parameters=MethodParameters.from_dict(update["parameters"]),
        added=added,
        removed=update["removed"],
    )
    return {"codebook": update["codebook"], "revision": update["revision"]}


def _read(entry: dict[str, Any], fingerprint: str) -> EntryArtifact:
    artifact = decode_entry(read_verified(Path(entry["path"]), entry["artifact"]))
    if artifact.manifest.edit_id != entry["edit_id"]:
        message = f"artifact {entry['artifact']} belongs to edit {artifact.manifest.edit_id}, not {entry['edit_id']}."
        raise DataLoss(message, code="artifact_of_another_edit")
    if artifact.manifest.fingerprint != fingerprint:
        message = f"entry {entry['edit_id']} was trained on another base model than this server's."
        raise FailedPrecondition(message, code="fingerprint_mismatch")
    return artifact


def drop(site: EditSite, text: str) -> dict[str, Any]:
    """Remove one codebook (JSON object with ``codebook``); its live requests keep their revision."""
    name: str = json.loads(text)["codebook"]
    site.codebooks.drop(name)
    return {"codebook": name}


def status(site: EditSite, _text: str) -> dict[str, Any]:
    """Return the applied revision of every codebook and the number of live tagged requests."""
    return {"applied": site.codebooks.applied(), "live_requests": len(site.requests)}


def _answering(call: Callable[[EditSite, str], dict[str, Any]]) -> Callable[[Any, str], str]:
    def answer(worker: Any, text: str = "{}") -> str:
        # An exception would end the sync agent's step, and one codebook must not hold up the others.
        try:
            return json.dumps(call(_site_of(worker), text))
        except HorenError as exc:
            return json.dumps({"error": {"class": type(exc).__name__, "code": exc.code, "message": exc.message}})
        except Exception as exc:
            log.exception("call failed", call=call.__name__)
            message = f"{call.__name__} failed with {type(exc).__name__}; the worker's log has the details."
            error = {"class": Internal.__name__, "code": Internal.default_code, "message": message}
            return json.dumps({"error": error})

    return answer


def _site_of(worker: Any) -> EditSite:
    site: EditSite | None = getattr(worker, SITE_ATTRIBUTE, None)
    if site is None:
        message = "this engine has no edit site: start it with additional_config.horen."
        raise FailedPrecondition(message, code="no_edit_site")
    return site
