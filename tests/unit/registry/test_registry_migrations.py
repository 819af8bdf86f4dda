"""The migrations make exactly the schema that the code expects, and can be undone."""

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from uuid import uuid4

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
from horen_vllm.registry.models import EditSpec, KeyScope, Publication
from horen_vllm.registry.schema import Base
from horen_vllm.registry.store import SqlRegistry
from horen_vllm.testing.postgres import PostgresServer

from .databases import definitions

BOOK = CodebookName(TenantId("acme"), "facts")
PARAMETERS = MethodParameters(preset="horen-paper", threshold=0.85)


@pytest.fixture(params=["sqlite", "postgres"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes an empty database and returns its URL."""
    numbers = count(1)
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path / f'registry-{next(numbers)}.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return lambda: server.create_database(f"migrations_{uuid4().hex}")


@pytest.fixture
def empty_url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def url(empty_url: str) -> str:
    migrate.upgrade(empty_url)
    return empty_url


def test_migrated_and_declared_schema_are_the_same(url: str, new_database: Callable[[], str]) -> None:
    declared_url = new_database()
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


def test_a_failed_upgrade_leaves_nothing(empty_url: str) -> None:
    url = empty_url
    database = Database(url)
    with database.connect() as connection:
        connection.execute(sa.text("CREATE TABLE replicas (stray INTEGER)"))
    database.close()
    with pytest.raises(Internal):
        migrate.upgrade(url)
    assert set(definitions(url)) == {"replicas"}
    assert migrate.current(url) is None


def test_an_empty_database_is_out_of_date(empty_url: str) -> None:
    registry = SqlRegistry(empty_url)
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


def test_an_upgrade_leaves_logging_alone(empty_url: str) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("alembic").level)
    migrate.upgrade(empty_url)
    assert (root.level, list(root.handlers), logging.getLogger("alembic").level) == before


def test_owners_of_codebooks_become_tenants(url: str) -> None:
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


def test_two_upgrades_at_once_make_one_schema(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(migrate.upgrade, empty_url) for _ in range(4)]:
            done.result()
    assert migrate.current(empty_url) == migrate.head()


def test_names_are_compared_by_bytes(url: str) -> None:
    registry = SqlRegistry(url)
    names = ["a", "a-b", "a1", "ab", "b"]
    for name in names:
        registry.create_tenant(TenantId(name))
    assert [it.name for it in registry.list_tenants(after="a", limit=4)] == names[1:]
    registry.close()
    if url.startswith("postgresql"):
        # Whatever language the database was made for.
        assert "column name character varying C" in definitions(url)["tenants"]
        assert "column tenant character varying C" in definitions(url)["codebooks"]


MIGRATIONS = sorted(
    path.stem[:13] for path in (Path(horen_vllm.__file__).parents[1] / "migrations/versions").glob("*.py")
)


def fill(registry: SqlRegistry) -> None:
    """Store something of everything that every version of the schema knows."""
    registry.create_tenant(TenantId("acme"))
    registry.add_key("k1", "digest", tenant=TenantId("acme"), scope=KeyScope.EDIT, lifetime_s=60)
    registry.create_codebook(BOOK, model="m", fingerprint="f", site="s", parameters=PARAMETERS)
    for number in range(4):
        registry.submit(BOOK, EditSpec(prompt=f"p{number} \u00fc", target="t", aliases=("a",)))
    claims = registry.claim("w", lease_s=30, fingerprint="f", limit=3)
    batch = [(claim, Publication(artifact=f"{it:064x}", base_revision=1 + it)) for it, claim in enumerate(claims[:2])]
    registry.publish(batch)
    registry.fail(claims[2], "code", "reason")
    registry.rollback(BOOK, 2)


def contents(url: str) -> dict[str, object]:
    registry = SqlRegistry(url)
    try:
        return {
            "tenants": registry.list_tenants(),
            "keys": registry.list_keys(),
            "codebooks": registry.list_codebooks(),
            "edits": registry.list_edits(BOOK),
            "revisions": registry.list_revisions(BOOK),
            "entries": [registry.entries(BOOK, number) for number in range(1, 5)],
        }
    finally:
        registry.close()


@pytest.mark.parametrize("back_to", MIGRATIONS[:-1])
def test_what_is_stored_survives_a_downgrade_and_an_upgrade(url: str, back_to: str) -> None:
    registry = SqlRegistry(url)
    fill(registry)
    registry.close()
    before = contents(url)
    migrate.downgrade(url, back_to)
    assert migrate.current(url) == back_to
    migrate.upgrade(url)
    after = contents(url)
    if back_to < "20261123_0002":
        # Who owns codebooks is a tenant again; when it became one, and its keys, the first schema did not know.
        assert [it.name for it in after.pop("tenants")] == ["acme", "default"]  # type: ignore[attr-defined]
        assert after.pop("keys") == []
    assert after == {name: before[name] for name in after}
    registry = SqlRegistry(url)
    assert registry.submit(BOOK, EditSpec(prompt="p", target="t")).sequence == 5
    registry.close()
