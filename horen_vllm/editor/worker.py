"""The editor worker: claims edits, makes them and publishes their entries, one at a time.

Knows the registry's port and the artifact folder; does not know SQL, gRPC or the serving engine.
"""

import threading
from typing import Final

import structlog

from horen_vllm.artifact import ArtifactFolder, encode_entry
from horen_vllm.editor.codebook import CodebookCache, CodebookState
from horen_vllm.editor.editing import EditOutcome, EditSession
from horen_vllm.editor.lease import LeaseKeeper
from horen_vllm.editor.model import EditableModel
from horen_vllm.errors import HorenError, Unavailable
from horen_vllm.registry.models import Claim, Publication
from horen_vllm.registry.ports import Registry

_MAX_BACKOFF_S: Final = 5.0
_PUBLISH_TRIES: Final = 5
"""Times that an edit is admitted anew because its codebook moved, before it is failed."""


class EditorWorker:
    """Turns the edits of one base model into published entries.

    1. claim the oldest edit of a codebook with this model's fingerprint, and keep its lease;
    2. make the edit against the codebook's current revision;
    3. mark it as trained, store the entry's file and publish it, or close the edit as already there, or as failed
       with its reason;
    4. if the codebook moved meanwhile, admit and verify against the new revision, without training again.

    Parameters
    ----------
    registry
        Where edits are claimed and published.
    artifacts
        Where entries are stored.
    editable
        The base model.
    worker_id
        Name of this worker in claims.
    lease_s
        Seconds that a claim outlives a worker that died.
    poll_s
        Seconds between looks at an empty queue.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        artifacts: ArtifactFolder,
        editable: EditableModel,
        worker_id: str,
        lease_s: float = 60.0,
        poll_s: float = 0.1,
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._editable = editable
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._cache = CodebookCache(artifacts)
        self._log = structlog.get_logger().bind(worker=worker_id)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; an edit in hand is finished first.

        A registry that does not answer is asked again after a growing pause of at most 5 s.
        """
        pause_s = self._poll_s
        while not stop.is_set():
            try:
                worked = self.run_once()
            except Unavailable as exc:
                self._log.warning("registry unavailable", reason=exc.message, pause_s=pause_s)
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, _MAX_BACKOFF_S)
                continue
            pause_s = self._poll_s
            if not worked:
                stop.wait(self._poll_s)

    def run_once(self) -> bool:
        """Take one edit to its end; return False when there was none to do.

        Raises
        ------
        Unavailable
            When the registry does not answer; the claim then runs out and the edit is handed out again.
        """
        claim = self._registry.claim(self._worker_id, lease_s=self._lease_s, fingerprint=self._editable.fingerprint)
        if claim is None:
            return False
        with LeaseKeeper(self._registry, claim, lease_s=self._lease_s):
            try:
                self._make(claim)
            except Unavailable:
                raise
            except HorenError as exc:
                self._close_failed(claim, exc.code, exc.message)
            except Exception as exc:  # noqa: BLE001 - one edit's defect must not stop the others
                self._log.exception("edit raised", edit_id=claim.edit.edit_id)
                reason = f"the editor met an unexpected {type(exc).__name__}; its log has the details."
                self._close_failed(claim, "internal_error", reason)
        return True

    def _make(self, claim: Claim) -> None:
        parameters = self._registry.get_codebook(claim.edit.codebook).parameters
        session = EditSession(self._editable, claim.edit, parameters)
        for left in reversed(range(_PUBLISH_TRIES)):
            outcome = session.against(self._current_state(claim))
            try:
                self._close_made(claim, outcome)
            except HorenError as exc:
                if exc.code != "revision_moved" or not left:
                    raise
                self._log.info("codebook moved", edit_id=claim.edit.edit_id, base=outcome.base_revision)
            else:
                return

    def _current_state(self, claim: Claim) -> CodebookState:
        name = claim.edit.codebook
        revision = self._registry.get_codebook(name).revision
        return self._cache.load(name, revision, self._registry.entries(name, revision))

    def _close_made(self, claim: Claim, outcome: EditOutcome) -> None:
        edit_id = claim.edit.edit_id
        if outcome.same_as is not None:
            self._registry.finish_same(claim, outcome.same_as)
            self._log.info("edit already there", edit_id=edit_id, same_as=outcome.same_as)
            return
        assert outcome.artifact is not None
        self._registry.trained(claim)
        publication = Publication(
            artifact=self._artifacts.put(encode_entry(outcome.artifact)),
            base_revision=outcome.base_revision,
            supersedes=outcome.supersedes,
            alias_of=outcome.alias_of,
            overlaps=outcome.overlaps,
        )
        record = self._registry.publish(claim, publication)
        manifest = outcome.artifact.manifest
        self._log.info(
            "edit published",
            edit_id=edit_id,
            revision=record.published_revision,
            steps=manifest.steps,
            loss=manifest.loss,
        )

    def _close_failed(self, claim: Claim, code: str, reason: str) -> None:
        log = self._log.bind(edit_id=claim.edit.edit_id, code=code)
        if code == "claim_lost":
            log.info("claim lost, edit dropped", attempt=claim.attempt)
            return
        try:
            self._registry.fail(claim, code, reason)
        except Unavailable:
            raise
        except HorenError as exc:
            log.warning("failure not stored", refused=exc.code)
            return
        # The reason may quote the tenant's prompt, so it goes to the registry and not to the log.
        log.info("edit failed")
