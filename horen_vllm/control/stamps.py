"""Times and durations to protobuf messages and back."""

from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def stamp_of(moment: datetime) -> Timestamp:
    """Return the message of an aware time."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def datetime_of(stamp: Timestamp) -> datetime:
    """Read a time, in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def duration_of(seconds: float) -> Duration:
    """Return the message of a duration; ValueError or OverflowError where it cannot be one."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
