"""A key that takes another one's place, in SQL."""

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from horen_vllm.errors import AlreadyExists, FailedPrecondition, NotFound
from horen_vllm.registry.audit_log import record
from horen_vllm.registry.models import KeyRecord, RequestKey
from horen_vllm.registry.records import key_record
from horen_vllm.registry.requests import remember, replayed
from horen_vllm.registry.schema import ApiKeyRow
from horen_vllm.registry.sql_store import SqlStore


class SqlKeyRotation(SqlStore):
    """Part of `ports.TenantStore` on SQL."""

    def rotate_key(
        self,
        key_id: str,
        new_id: str,
        digest: str,
        *,
        overlap_s: float,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> KeyRecord:
        """Store a key like `key_id`, which ends `overlap_s` seconds from now, or earlier if it would have; return it.

        The new one has the same tenant and scope, and lives as long as the old one was made for.

        Raises
        ------
        NotFound
            ``unknown_key``.
        FailedPrecondition
            ``key_ended``, for a key that was revoked or has expired.
        AlreadyExists
            ``key_already_made``, for a repeated `request`; ``request_id_reused``.
        """
        with self._database.write("" if validate_only else "rotate_key") as session:
            now = self._clock()
            made = replayed(session, request, now)
            if made is not None:
                message = f"This request made the key keys/{made} already; secrets are told once: rotate that key."
                raise AlreadyExists(message, code="key_already_made")
            old = _find_valid(session, key_id, now)
            lifetime = None if old.expires_at is None else old.expires_at - old.created_at
            end = now + timedelta(seconds=overlap_s)
            old.expires_at = end if old.expires_at is None else min(end, old.expires_at)
            row = ApiKeyRow(
                key_id=new_id,
                tenant=old.tenant,
                scope=old.scope,
                digest=digest,
                created_at=now,
                expires_at=None if lifetime is None else now + lifetime,
            )
            session.add(row)
            session.flush()
            detail = {"successor": f"keys/{new_id}", "overlap_s": overlap_s}
            record(session, "RotateKey", tenant=old.tenant, resource=f"keys/{key_id}", now=now, detail=detail)
            remember(session, request, new_id, now)
            answer = key_record(row)
            if validate_only:
                session.rollback()
            return answer


def _find_valid(session: Session, key_id: str, now: datetime) -> ApiKeyRow:
    row = session.get(ApiKeyRow, key_id, with_for_update=True)
    if row is None:
        raise NotFound(f"There is no key {key_id}.", code="unknown_key")
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        message = f"The key {key_id} was revoked or has expired: make a new one instead."
        raise FailedPrecondition(message, code="key_ended")
    return row
