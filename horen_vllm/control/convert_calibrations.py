"""Calibrations to protobuf messages and back; nothing else."""

import json

from horen_vllm.control._pb.horen.v1 import codebooks_pb2
from horen_vllm.control.names import calibration_path
from horen_vllm.control.stamps import datetime_of, stamp_of
from horen_vllm.core.presets import MethodParameters
from horen_vllm.registry.models import CalibrationRecord


def calibration_to_proto(record: CalibrationRecord) -> codebooks_pb2.Calibration:
    """Return the message of a calibration."""
    return codebooks_pb2.Calibration(
        name=calibration_path(record.version),
        version=record.version,
        fingerprint=record.fingerprint,
        site=record.site,
        presets=[
            codebooks_pb2.CalibratedPreset(preset=preset, parameters_json=json.dumps(parameters.to_dict()))
            for preset, parameters in record.presets.items()
        ],
        recommended=record.recommended,
        summary_json=json.dumps(record.summary),
        create_time=stamp_of(record.created_at),
    )


def calibration_from_proto(message: codebooks_pb2.Calibration) -> CalibrationRecord:
    """Read a calibration."""
    return CalibrationRecord(
        fingerprint=message.fingerprint,
        site=message.site,
        version=message.version,
        presets={it.preset: MethodParameters.from_dict(json.loads(it.parameters_json)) for it in message.presets},
        recommended=message.recommended,
        summary=json.loads(message.summary_json),
        created_at=datetime_of(message.create_time),
    )
