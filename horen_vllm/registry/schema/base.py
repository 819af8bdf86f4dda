"""Declarative base: constraint names, and the column type of each Python type."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, MetaData
from sqlalchemy.orm import DeclarativeBase

from horen_vllm.registry.models import ArtifactState, EditState, KeyScope, RevisionKind
from horen_vllm.registry.schema.columns import NAME, StringTuple, UtcDateTime, stored_enum

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of every table."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: NAME,
        datetime: UtcDateTime(),
        tuple[str, ...]: StringTuple(),
        dict[str, Any]: JSON(),
        ArtifactState: stored_enum(ArtifactState),
        EditState: stored_enum(EditState),
        KeyScope: stored_enum(KeyScope),
        RevisionKind: stored_enum(RevisionKind),
    }
