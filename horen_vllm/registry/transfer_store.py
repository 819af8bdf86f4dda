"""What leaves a codebook with its file, and what comes in with one, in SQL."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple
from datetime import datetime

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.audit_log import record
from horen_vllm.registry.exporting import portable_edits
from horen_vllm.registry.importing import Importer
from horen_vllm.registry.models import RequestKey, RevisionKind, RevisionRecord
from horen_vllm.registry.portable import ImportCounts, ImportedEdit, ImportRecord, KnownOrigin, PortableEdit
from horen_vllm.registry.quotas import require_entry_quota
from horen_vllm.registry.records import codebook_record, revision_record
from horen_vllm.registry.requests import remember, replayed
from horen_vllm.registry.revisioning import add_revision
from horen_vllm.registry.schema import CodebookRow, EditRow, MembershipRow, RevisionRow
from horen_vllm.registry.sql_store import SqlStore, find_codebook, require_revision


class SqlTransferStore(SqlStore):
    """`ports.TransferStore` on SQL."""

    def get_revision(self, name: CodebookName, number: int | None = None) -> RevisionRecord:
        """Return a revision (default: the current one); NotFound ``unknown_revision`` or ``revision_pruned``."""
        with self._database.read() as session:
            codebook = find_codebook(session, name)
            number = codebook.revision if number is None else number
            require_revision(codebook, name, number)
            return revision_record(session.get_one(RevisionRow, (codebook.id, number)), name)

    def portable_edits(
        self, name: CodebookName, revision: int, *, after_sequence: int = 0, limit: int = 1000
    ) -> Sequence[PortableEdit]:
        """Return at most `limit` edits that were ever published or retired, with a greater sequence, oldest first.

        Raises
        ------
        NotFound
            ``unknown_codebook``, ``unknown_revision`` or ``revision_pruned``.
        """
        with self._database.read() as session:
            codebook = find_codebook(session, name)
            require_revision(codebook, name, revision)
            return portable_edits(session, codebook, revision, after_sequence=after_sequence, limit=limit)

    def known_origins(self, name: CodebookName, origins: Collection[EditId]) -> dict[EditId, KnownOrigin]:
        """Return which edits of a file the codebook has, by origin; NotFound ``unknown_codebook``."""
        active = exists().where(MembershipRow.edit_id == EditRow.edit_id, MembershipRow.to_revision.is_(None))
        with self._database.read() as session:
            codebook = find_codebook(session, name)
            query = select(EditRow.origin, EditRow.edit_id, EditRow.retired_at, active)
            query = query.where(EditRow.codebook_id == codebook.id, EditRow.origin.in_(origins))
            return {
                EditId(origin): KnownOrigin(edit_id=EditId(edit_id), wants_entry=retired_at is None and not there)
                for origin, edit_id, retired_at, there in session.execute(query)
            }

    def made_import(self, name: CodebookName, request: RequestKey | None) -> ImportRecord | None:
        """Return what a repeated `request` made; None: it is still to be made. AlreadyExists ``request_id_reused``."""
        with self._database.write("") as session:
            return self._made(session, name, request)

    def import_edits(
        self,
        name: CodebookName,
        edits: Iterable[ImportedEdit],
        *,
        threshold: float,
        entries: int,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> ImportRecord:
        """Bring the edits of a file into the codebook, as one revision.

        Parameters
        ----------
        edits
            Those of the file, oldest first; read once, within the transaction.
        threshold
            That of the revision that the file was made of.
        entries
            Entries that that revision had.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        FailedPrecondition
            ``import_conflict`` or ``revision_moved``; see `Importer.take`.
        ResourceExhausted
            ``quota_exceeded``.
        AlreadyExists
            ``request_id_reused``.
        """
        with self._database.write("" if validate_only else "import_codebook") as session:
            now = self._clock()
            made = self._made(session, name, request)
            if made is not None:
                return made
            codebook = find_codebook(session, name, lock=True)
            importer = Importer(session, codebook, now)
            was_empty = codebook.entry_count == 0
            importer.take(edits)
            counts = importer.counts
            require_entry_quota(session, name.tenant, counts.added)
            whole = was_empty and counts.added == entries
            _make_revision(session, codebook, importer, threshold, whole=whole, now=now)
            detail = {"revision": codebook.revision, "added": counts.added, "retired": counts.retired}
            record(session, "ImportCodebook", tenant=name.tenant, resource=str(name), now=now, detail=detail)
            remember(session, request, " ".join(map(str, astuple(counts))), now)
            answer = ImportRecord(codebook=codebook_record(codebook), counts=counts)
            if validate_only:
                session.rollback()
            return answer

    def _made(self, session: Session, name: CodebookName, request: RequestKey | None) -> ImportRecord | None:
        reference = replayed(session, request, self._clock())
        if reference is None:
            return None
        added, already_there, kept_retired, retired = map(int, reference.split())
        counts = ImportCounts(added=added, already_there=already_there, kept_retired=kept_retired, retired=retired)
        return ImportRecord(codebook=codebook_record(find_codebook(session, name, deleted=True)), counts=counts)


def _make_revision(
    session: Session, codebook: CodebookRow, importer: Importer, threshold: float, *, whole: bool, now: datetime
) -> None:
    """Make the revision with what came in.

    The file's threshold holds for its entries and no others. Where the threshold follows the entries, the greater of
    both stands in until a worker has computed it: nothing fires that would not have fired here or there.
    """
    own = codebook.parameters["threshold"]
    chosen = threshold if whole else own
    changed = bool(importer.counts.added or importer.counts.retired)
    if not whole and changed and codebook.parameters.get("false_fire_rate") is not None:
        chosen = max(own, threshold)
        codebook.threshold_due = True
    add_revision(
        session,
        codebook,
        kind=RevisionKind.IMPORT,
        entry_count=codebook.entry_count + importer.counts.added - importer.fewer,
        now=now,
        threshold=chosen,
    )
    session.flush()
