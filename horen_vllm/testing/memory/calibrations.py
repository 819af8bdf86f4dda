"""Calibrations in memory."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import InvalidArgument, NotFound
from horen_vllm.registry.models import CalibrationRecord
from horen_vllm.testing.memory.state import MemoryStore


class MemoryCalibrations(MemoryStore):
    """`ports.CalibrationStore` in memory."""

    def add_calibration(
        self,
        *,
        fingerprint: str,
        site: str,
        presets: Mapping[str, MethodParameters],
        recommended: str,
        summary: Mapping[str, Any],
    ) -> CalibrationRecord:
        """Store a calibration as the base model's next version; InvalidArgument ``invalid_calibration``."""
        if recommended not in presets:
            message = f"the calibration recommends {recommended!r}, which is none of its presets."
            raise InvalidArgument(message, code="invalid_calibration")
        plain = _as_json(summary)
        with self._storage.write() as state:
            made = CalibrationRecord(
                fingerprint=fingerprint,
                site=site,
                version=1 + sum(it.fingerprint == fingerprint for it in state.calibrations),
                presets=dict(presets),
                recommended=recommended,
                summary=plain,
                created_at=self._clock(),
            )
            state.calibrations.append(made)
            return made

    def calibration(self, fingerprint: str, version: int | None = None) -> CalibrationRecord:
        """Return a calibration of a base model (default: its newest); NotFound ``unknown_calibration``."""
        found = [it for it in self.list_calibrations(fingerprint) if version in (None, it.version)]
        if not found:
            which = "no calibration" if version is None else f"no calibration {version}"
            message = f"There is {which} of the base model with fingerprint {fingerprint[:12]}."
            raise NotFound(message, code="unknown_calibration")
        return found[-1]

    def list_calibrations(self, fingerprint: str | None = None) -> Sequence[CalibrationRecord]:
        """Return all calibrations (of one base model, when given), by base model and version."""
        found = [it for it in self._storage.now.calibrations if fingerprint in (None, it.fingerprint)]
        return sorted(found, key=lambda it: (it.fingerprint, it.version))


def _as_json(summary: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(summary), allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise InvalidArgument(f"the calibration's summary is not JSON: {exc}.", code="invalid_calibration") from exc
    return plain
