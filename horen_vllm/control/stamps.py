"""Times to protobuf timestamps and back."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def stamp_of(moment: datetime) -> Timestamp:
    """Return the message of an aware time."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def datetime_of(stamp: Timestamp) -> datetime:
    """Read a time, in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)
