"""Calibrations in SQL."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import InvalidArgument, NotFound
from horen_vllm.registry.models import CalibrationRecord
from horen_vllm.registry.postgresql import lock_table
from horen_vllm.registry.records import calibration_record
from horen_vllm.registry.schema import CalibrationRow
from horen_vllm.registry.sql_store import SqlStore


class SqlCalibrationStore(SqlStore):
    """`ports.CalibrationStore` on SQL."""

    def add_calibration(
        self,
        *,
        fingerprint: str,
        site: str,
        presets: Mapping[str, MethodParameters],
        recommended: str,
        summary: Mapping[str, Any],
    ) -> CalibrationRecord:
        """Store a calibration as the base model's next version.

        Raises
        ------
        InvalidArgument
            ``invalid_calibration``, when `recommended` is none of `presets`, or `summary` is not JSON.
        """
        if recommended not in presets:
            message = f"the calibration recommends {recommended!r}, which is none of its presets."
            raise InvalidArgument(message, code="invalid_calibration")
        row = CalibrationRow(
            fingerprint=fingerprint,
            site=site,
            presets={preset: parameters.to_dict() for preset, parameters in presets.items()},
            recommended=recommended,
            summary=_as_json(summary),
            created_at=self._clock(),
        )
        with self._database.write("add_calibration") as session:
            row.version = _next_version(session, fingerprint)
            session.add(row)
            session.flush()
            return calibration_record(row)

    def calibration(self, fingerprint: str, version: int | None = None) -> CalibrationRecord:
        """Return a calibration of a base model (default: its newest).

        Raises
        ------
        NotFound
            ``unknown_calibration``.
        """
        query = select(CalibrationRow).where(CalibrationRow.fingerprint == fingerprint)
        if version is not None:
            query = query.where(CalibrationRow.version == version)
        with self._database.read() as session:
            row = session.scalars(query.order_by(CalibrationRow.version.desc()).limit(1)).one_or_none()
            if row is None:
                which = "no calibration" if version is None else f"no calibration {version}"
                message = f"There is {which} of the base model with fingerprint {fingerprint[:12]}."
                raise NotFound(message, code="unknown_calibration")
            return calibration_record(row)

    def list_calibrations(self, fingerprint: str | None = None) -> Sequence[CalibrationRecord]:
        """Return all calibrations (of one base model, when given), by base model and version."""
        query = select(CalibrationRow).order_by(CalibrationRow.fingerprint, CalibrationRow.version)
        if fingerprint is not None:
            query = query.where(CalibrationRow.fingerprint == fingerprint)
        with self._database.read() as session:
            return [calibration_record(row) for row in session.scalars(query)]


def _next_version(session: Session, fingerprint: str) -> int:
    """Return the version after the base model's newest; other writers of calibrations wait from here to the commit."""
    lock_table(session, CalibrationRow.__tablename__)
    newest = select(func.max(CalibrationRow.version)).where(CalibrationRow.fingerprint == fingerprint)
    return (session.scalar(newest) or 0) + 1


def _as_json(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return `summary` as it will be read back."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(summary), allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise InvalidArgument(f"the calibration's summary is not JSON: {exc}.", code="invalid_calibration") from exc
    return plain
