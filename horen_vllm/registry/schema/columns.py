"""Column types that read back exactly what was written, on every database."""

from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import JSON, DateTime, Dialect, Enum, String
from sqlalchemy.types import TypeDecorator

NAME = String().with_variant(String(collation="C"), "postgresql")
"""A name or an id: compared and ordered byte by byte, whatever language a database was made for; SQLite always does."""


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: aware on both sides, stored in UTC (SQLite keeps no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Turn an aware time into UTC."""
        if value is None:
            return None
        assert value.tzinfo is not None, "times must carry their zone"
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give a stored time its zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class StringTuple(TypeDecorator[tuple[str, ...]]):
    """Strings in their order, as a JSON array."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> list[str] | None:  # noqa: ARG002
        """Turn the tuple into what JSON knows."""
        return None if value is None else list(value)

    def process_result_value(self, value: list[str] | None, dialect: Dialect) -> tuple[str, ...] | None:  # noqa: ARG002
        """Turn the array back."""
        return None if value is None else tuple(value)


def stored_enum(kind: type[StrEnum]) -> Enum:
    """Return the column type that stores the values of `kind` as plain strings."""
    return Enum(kind, native_enum=False, length=16, values_callable=_values)


def _values(kind: type[StrEnum]) -> list[str]:
    return [member.value for member in kind]
