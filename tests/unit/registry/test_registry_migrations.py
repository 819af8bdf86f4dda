"""The migrations make exactly the schema that the code expects, and can be undone."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import horen_vllm
from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import FailedPrecondition, Internal
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry import migrate
from horen_vllm.registry.database import Database
from horen_vllm.registry.schema import Base
from horen_vllm.registry.store import SqlRegistry

BOOK = CodebookName(TenantId("acme"), "facts")
PARAMETERS = MethodParameters(preset="horen-paper", threshold=0.85)


def definitions(url: str) -> dict[str, str]:
    """Return the SQL of every table and index by name."""
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'"
    database = Database(url)
    with database.connect() as connection:
        rows = {row.name: _canonical(row.sql) for row in connection.execute(sa.text(query))}
    database.close()
    return rows


def _canonical(sql: str) -> str:
    """Return the statement as a table has it that no migration has copied: names bare, constraints by name."""
    lines = [line.rstrip(", ") for line in sql.replace('"', "").split("\n")]
    return "\n".join(sorted(lines, key=lambda line: line if line.startswith("\tCONSTRAINT") else ""))


def test_migrated_and_declared_schema_are_the_same(url: str, tmp_path: Path) -> None:
    declared_url = f"sqlite:///{tmp_path / 'declared.db'}"
    declared = Database(declared_url)
    with declared.connect() as connection:
        Base.metadata.create_all(connection)
    declared.close()
    assert definitions(url) == definitions(declared_url)
    assert "edits" in definitions(url)


def test_autogenerate_finds_nothing_to_do(url: str) -> None:
    database = Database(url)
    with database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    database.close()


def test_an_upgrade_can_be_undone_and_repeated(url: str) -> None:
    migrated = definitions(url)
    migrate.downgrade(url, "base")
    assert definitions(url) == {}
    assert migrate.current(url) is None
    migrate.upgrade(url)
    assert definitions(url) == migrated


def test_upgrading_a_current_database_keeps_its_rows(url: str) -> None:
    registry = SqlRegistry(url)
    created = registry.create_codebook(BOOK, model="m", fingerprint="f", site="s", parameters=PARAMETERS)
    migrate.upgrade(url)
    assert migrate.current(url) == migrate.head()
    assert registry.get_codebook(BOOK) == created
    registry.close()


def test_a_failed_upgrade_leaves_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    database = Database(url)
    with database.connect() as connection:
        connection.execute(sa.text("CREATE TABLE replicas (stray INTEGER)"))
    database.close()
    with pytest.raises(Internal):
        migrate.upgrade(url)
    assert set(definitions(url)) == {"replicas"}
    assert migrate.current(url) is None


def test_an_empty_database_is_out_of_date(tmp_path: Path) -> None:
    registry = SqlRegistry(f"sqlite:///{tmp_path / 'registry.db'}")
    with pytest.raises(FailedPrecondition, match=r"migration none, .* run `horen db upgrade`") as caught:
        registry.check_schema()
    assert caught.value.code == "schema_out_of_date"
    registry.close()


def test_a_migrated_database_is_up_to_date(registry: SqlRegistry) -> None:
    registry.check_schema()


def test_a_newer_database_is_refused(url: str) -> None:
    database = Database(url)
    with database.connect() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '29990101_0001'"))
    database.close()
    registry = SqlRegistry(url)
    for refused in (registry.check_schema, lambda: migrate.upgrade(url)):
        with pytest.raises(FailedPrecondition, match=r"29990101_0001.* does not know") as caught:
            refused()
        assert caught.value.code == "schema_out_of_date"
    registry.close()


def test_an_installation_without_migrations_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(horen_vllm, "__file__", str(tmp_path / "horen_vllm" / "__init__.py"))
    with pytest.raises(FailedPrecondition) as caught:
        migrate.head()
    assert caught.value.code == "migrations_missing"


def test_an_upgrade_leaves_logging_alone(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("alembic").level)
    migrate.upgrade(f"sqlite:///{tmp_path / 'registry.db'}")
    assert (root.level, list(root.handlers), logging.getLogger("alembic").level) == before


def test_owners_of_codebooks_become_tenants(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    migrate.upgrade(url)
    migrate.downgrade(url, "20261122_0001")
    columns = "tenant, name, model, fingerprint, site, parameters, revision, entry_count, last_sequence, created_at"
    values = "'acme', 'facts', 'm', 'f', 's', :parameters, 1, 0, 0, '2026-11-22 12:00:00'"
    database = Database(url)
    with database.connect() as connection:
        parameters = json.dumps(PARAMETERS.to_dict())
        connection.execute(sa.text(f"INSERT INTO codebooks ({columns}) VALUES ({values})"), {"parameters": parameters})
    database.close()
    migrate.upgrade(url)
    registry = SqlRegistry(url)
    assert [record.name for record in registry.list_tenants()] == ["acme", "default"]
    registry.close()


def test_revisions_get_the_threshold_of_their_codebook(url: str) -> None:
    registry = SqlRegistry(url)
    other = CodebookName(TenantId("acme"), "other")
    for name, threshold in ((BOOK, 0.1 + 0.2), (other, 1)):
        parameters = replace(PARAMETERS, threshold=threshold)
        registry.create_codebook(name, model="m", fingerprint="f", site="s", parameters=parameters)
        registry.rollback(name, 1)
    before = [registry.list_revisions(name) for name in (BOOK, other)]
    registry.close()
    migrate.downgrade(url, "20261123_0003")
    assert "threshold" not in definitions(url)["revisions"]
    assert "calibrations" not in definitions(url)
    migrate.upgrade(url)
    registry = SqlRegistry(url)
    assert [registry.list_revisions(name) for name in (BOOK, other)] == before
    assert [[revision.threshold for revision in revisions] for revisions in before] == [[0.1 + 0.2] * 2, [1.0] * 2]
    registry.close()


def test_calibrations_survive_an_upgrade(url: str) -> None:
    registry = SqlRegistry(url)
    made = registry.add_calibration(
        fingerprint="f", site="s", presets={"cosine": PARAMETERS}, recommended="cosine", summary={"rate": 0.1 + 0.2}
    )
    migrate.upgrade(url)
    assert registry.calibration("f") == made
    registry.close()
