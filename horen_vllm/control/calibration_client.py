"""The client's calls about calibrations."""

from collections.abc import Iterator
from typing import Any

from horen_vllm.control import convert
from horen_vllm.control._pb.horen.v1 import codebooks_pb2
from horen_vllm.control.convert_calibrations import calibration_from_proto
from horen_vllm.control.names import calibration_path
from horen_vllm.control.transport import Transport
from horen_vllm.registry.models import CalibrationRecord


class CalibrationCalls:
    """Part of `HorenClient`: calibrations of the control plane's base model, by version."""

    _transport: Transport
    _codebooks: Any

    def get_calibration(self, version: int | None = None) -> CalibrationRecord:
        """Return a calibration (default: the newest).

        Raises
        ------
        NotFound
            ``unknown_calibration``.
        InvalidArgument
            ``invalid_name``, for a version below 1.
        """
        request = convert.message_of(codebooks_pb2.GetCalibrationRequest, name=calibration_path(version))
        return self._transport.call_again(self._codebooks.GetCalibration, request, calibration_from_proto)

    def list_calibrations(self, *, page_size: int = 100) -> Iterator[CalibrationRecord]:
        """Yield the calibrations, oldest first, fetching a page at a time."""
        request = convert.message_of(codebooks_pb2.ListCalibrationsRequest, page_size=page_size)
        for page in self._transport.pages(self._codebooks.ListCalibrations, request):
            yield from map(calibration_from_proto, page.calibrations)
