"""What the registry forgets: old revisions, codebooks that were deleted long ago, artifacts that nobody needs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from horen_vllm.ids import CodebookName
from horen_vllm.registry.artifact_register import AT_ONCE, SqlArtifactRegister, locked, needed
from horen_vllm.registry.audit_log import record
from horen_vllm.registry.models import ArtifactState
from horen_vllm.registry.records import codebook_name, replica_record
from horen_vllm.registry.schema import ArtifactRow, CodebookRow, MembershipRow, ReplicaRow
from horen_vllm.registry.sql_store import find_codebook

PURGE_AFTER_S: Final = 30 * 86_400.0
"""Seconds that a deleted codebook can be brought back for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What became of the old revisions of one codebook."""

    codebook: CodebookName
    oldest: int
    """Oldest revision that is kept now."""
    kept_for: tuple[str, ...]
    """Live replicas that still serve an older one than asked for, for which more is kept."""


class SqlCollector(SqlArtifactRegister):
    """Forgets, on SQL; every method may be repeated, interrupted and run beside everything else."""

    def prune_revisions(self, keep: int) -> Sequence[Pruning]:
        """Keep the newest `keep` (>= 1) revisions of every codebook, and what live replicas serve.

        The record of what made a revision stays; its entries are forgotten, and nothing can be rolled back to it.
        """
        with self._database.read() as session:
            names = [codebook_name(row) for row in session.scalars(select(CodebookRow).order_by(CodebookRow.id))]
        return [self._prune(name, keep) for name in names]

    def purge_deleted(self, *, after_s: float = PURGE_AFTER_S) -> Sequence[CodebookName]:
        """Forget the entries of codebooks that were deleted `after_s` seconds ago; they cannot be brought back."""
        ended = self._clock() - timedelta(seconds=after_s)
        due = select(CodebookRow).where(
            CodebookRow.deleted_at <= ended, CodebookRow.oldest_revision <= CodebookRow.revision
        )
        with self._database.write("") as session:
            rows = list(session.scalars(due.order_by(CodebookRow.id).with_for_update()))
            for row in rows:
                session.execute(delete(MembershipRow).where(MembershipRow.codebook_id == row.id))
                row.oldest_revision = row.revision + 1
                _note(session, "purge_codebook", row, self._clock())
            return [codebook_name(row) for row in rows]

    def unknown_artifacts(self, sizes: Mapping[str, int]) -> Mapping[str, int]:
        """Return those files, by digest with their bytes, that the register has not: no worker of its stored them."""
        known: set[str] = set()
        digests = sorted(sizes)
        with self._database.read() as session:
            for first in range(0, len(digests), AT_ONCE):
                part = digests[first : first + AT_ONCE]
                known.update(session.scalars(select(ArtifactRow.digest).where(ArtifactRow.digest.in_(part))))
        return {digest: size for digest, size in sizes.items() if digest not in known}

    def condemn_artifacts(self, *, grace_s: float, dry_run: bool = False) -> Sequence[str]:
        """Condemn the live artifacts that were registered `grace_s` seconds ago and that nothing needs; return them."""
        before = self._clock() - timedelta(seconds=grace_s)
        old = select(ArtifactRow.digest).where(
            ArtifactRow.state == ArtifactState.LIVE, ArtifactRow.changed_at <= before
        )
        with self._database.write("") as session:
            digests = list(session.scalars(old.order_by(ArtifactRow.digest)))
            condemned = sorted(set(digests) - needed(session, digests))
            if not dry_run:
                for first in range(0, len(condemned), AT_ONCE):
                    part = ArtifactRow.digest.in_(condemned[first : first + AT_ONCE])
                    session.execute(
                        update(ArtifactRow)
                        .where(part, ArtifactRow.state == ArtifactState.LIVE, ArtifactRow.changed_at <= before)
                        .values(state=ArtifactState.CONDEMNED, changed_at=self._clock())
                    )
            return condemned

    def sweep_artifacts(self, remove: Callable[[str], None], *, grace_s: float) -> Sequence[str]:
        """Delete, by `remove`, the files that were condemned `grace_s` seconds ago and are still not needed.

        Each is deleted inside the transaction that holds its row: whoever registers or publishes it waits, and then
        writes it again or is told. An interruption between the two leaves it condemned, and the next call goes on.
        """
        before = self._clock() - timedelta(seconds=grace_s)
        due = select(ArtifactRow.digest).where(
            ArtifactRow.state == ArtifactState.CONDEMNED, ArtifactRow.changed_at <= before
        )
        with self._database.read() as session:
            digests = list(session.scalars(due.order_by(ArtifactRow.digest)))
        return list(self._swept(digests, remove))

    def _swept(self, digests: Iterable[str], remove: Callable[[str], None]) -> Iterable[str]:
        for digest in digests:
            with self._database.write("") as session:
                (row,) = locked(session, (digest,))
                if row.state is not ArtifactState.CONDEMNED:
                    continue
                # A new statement: it sees what was committed before the lock was taken.
                spared = needed(session, (digest,))
                row.state = ArtifactState.LIVE if spared else ArtifactState.DELETED
                row.changed_at = self._clock()
                if not spared:
                    session.flush()
                    remove(digest)
            if not spared:
                yield digest

    def _prune(self, name: CodebookName, keep: int) -> Pruning:
        with self._database.write("") as session:
            row = find_codebook(session, name, lock=True, deleted=True)
            behind = _applied_by_replicas(session, row, self._clock())
            wanted = row.revision - keep + 1
            oldest = max(row.oldest_revision, min([wanted, *behind.values()]))
            if oldest > row.oldest_revision:
                row.oldest_revision = oldest
                session.execute(
                    delete(MembershipRow).where(
                        MembershipRow.codebook_id == row.id, MembershipRow.to_revision <= oldest
                    )
                )
                _note(session, "prune_revisions", row, self._clock(), oldest=oldest)
            kept_for = tuple(sorted(replica for replica, revision in behind.items() if revision < wanted))
            return Pruning(codebook=name, oldest=oldest, kept_for=kept_for)


def _applied_by_replicas(session: Session, codebook: CodebookRow, now: datetime) -> dict[str, int]:
    """Return the revision that each live replica has applied; one that has none will ask for all of the newest."""
    live = select(ReplicaRow).where(ReplicaRow.fingerprint == codebook.fingerprint, ReplicaRow.lease_expires_at > now)
    name = codebook_name(codebook)
    reports = {row.replica_id: replica_record(row).report.applied for row in session.scalars(live)}
    return {replica: applied[name] for replica, applied in reports.items() if name in applied}


def _note(session: Session, method: str, codebook: CodebookRow, now: datetime, **detail: int) -> None:
    name = codebook_name(codebook)
    record(session, method, tenant=name.tenant, resource=str(name), now=now, detail=dict(detail))
