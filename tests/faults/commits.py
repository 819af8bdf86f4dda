"""One way to each commit of the registry that no history of `plant` comes by: what to do before, the call, its mark."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from horen_vllm.errors import AlreadyExists, NotFound
from horen_vllm.failpoints import arm
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId, TenantId
from horen_vllm.registry.models import EditSpec, EditState, KeyScope, Publication, RequestKey
from horen_vllm.registry.portable import ImportedEdit
from horen_vllm.registry.store import SqlRegistry
from tests.faults.conftest import BOOK, PARAMETERS
from tests.unit.serving.live.world import FINGERPRINT

SPEC: Final = EditSpec(prompt="who leads Rome?", target="Ada")
OTHER: Final = CodebookName(DEFAULT_TENANT, "other")
FRESH: Final = TenantId("fresh")


def key(method: str) -> RequestKey:
    return RequestKey(tenant=DEFAULT_TENANT, method=method, request_id=method, digest="d")


def an_hour_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """How to come by one commit. A repeated `act` must change nothing."""

    act: Callable[[SqlRegistry, Any], object]
    """Called with what `prepare` returned; may be refused for having been done."""
    done: Callable[[SqlRegistry, Any], bool]
    prepare: Callable[[SqlRegistry], Any] = lambda _registry: None
    """Called on a registry whose clock is an hour slow."""
    method: str | None = None
    """Of the one event that the audit log has then; None: the log is not told."""


def _claimed(registry: SqlRegistry) -> Any:
    registry.submit(BOOK, SPEC)
    return registry.claim("w", lease_s=7_200, fingerprint=FINGERPRINT)


def _state(registry: SqlRegistry, claims: Any) -> Any:
    return registry.get_edit(claims[0].edit.edit_id)


def _file(registry: SqlRegistry) -> Any:
    registry.create_codebook(OTHER, model="m", fingerprint=FINGERPRINT, site="s", parameters=PARAMETERS)
    registry.submit(OTHER, SPEC)
    (claim,) = registry.claim("w", lease_s=7_200, fingerprint=FINGERPRINT)
    registry.publish([(claim, Publication(artifact="a" * 64, base_revision=1))])
    (edit,) = registry.portable_edits(OTHER, 2)
    return [ImportedEdit(edit=edit, edit_id=EditId("e1"), artifact="a" * 64)]


def _import(registry: SqlRegistry, edits: Iterable[ImportedEdit]) -> object:
    return registry.import_edits(BOOK, edits, threshold=0.5, entries=1, request=key("ImportCodebook"))


def _expiring(registry: SqlRegistry) -> Any:
    return registry.submit(BOOK, SPEC, ttl_s=1.0).edit_id


def _key(registry: SqlRegistry, lifetime_s: float | None = None) -> Any:
    return registry.add_key("k1", "1" * 64, tenant=DEFAULT_TENANT, scope=KeyScope.READ, lifetime_s=lifetime_s).key_id


def _add_key(registry: SqlRegistry, _prepared: Any) -> None:
    with told_once():
        registry.add_key(
            "k2", "2" * 64, tenant=DEFAULT_TENANT, scope=KeyScope.READ, lifetime_s=None, request=key("CreateKey")
        )


def _rotate_key(registry: SqlRegistry, key_id: str) -> None:
    with told_once():
        registry.rotate_key(key_id, "k2", "2" * 64, overlap_s=0.0, request=key("RotateKey"))


@contextmanager
def told_once() -> Iterator[None]:
    """Let a repeated request for a key be refused, for its secret is told once."""
    try:
        yield
    except AlreadyExists as error:
        if error.code != "key_already_made":
            raise


def _resolve(registry: SqlRegistry, _prepared: Any) -> None:
    with suppress(NotFound):
        registry.resolve_key("1" * 64)


def _keys(registry: SqlRegistry) -> dict[str, Any]:
    return {it.key_id: it for it in registry.list_keys()}


def _calibrate(registry: SqlRegistry, _prepared: Any) -> object:
    presets = {"cosine": replace(PARAMETERS, preset="cosine")}
    return registry.add_calibration(
        fingerprint=FINGERPRINT, site="s", presets=presets, recommended="cosine", summary={}
    )


COMMITS: Final = MappingProxyType(
    {
        "create_codebook": Commit(
            act=lambda registry, _: registry.create_codebook(
                OTHER,
                model="m",
                fingerprint=FINGERPRINT,
                site="s",
                parameters=PARAMETERS,
                request=key("CreateCodebook"),
            ),
            done=lambda registry, _: OTHER in {it.name for it in registry.list_codebooks()},
            method="CreateCodebook",
        ),
        "begin_epoch": Commit(
            prepare=lambda registry: registry.epoch(),
            act=lambda registry, before: registry.begin_epoch() if registry.epoch() == before else None,
            done=lambda registry, before: registry.epoch() != before,
            method="begin_epoch",
        ),
        "delete_codebook": Commit(
            act=lambda registry, _: registry.delete_codebook(BOOK, request=key("DeleteCodebook")),
            done=lambda registry, _: registry.get_codebook(BOOK).deleted_at is not None,
            method="DeleteCodebook",
        ),
        "undelete_codebook": Commit(
            prepare=lambda registry: registry.delete_codebook(BOOK),
            act=lambda registry, _: registry.undelete_codebook(BOOK, request=key("UndeleteCodebook")),
            done=lambda registry, _: registry.get_codebook(BOOK).deleted_at is None,
            method="UndeleteCodebook",
        ),
        "import_codebook": Commit(
            prepare=_file,
            act=_import,
            done=lambda registry, _: [it.edit_id for it in registry.entries(BOOK)] == ["e1"],
            method="ImportCodebook",
        ),
        "retire_expired": Commit(
            prepare=_expiring,
            act=lambda registry, _: registry.retire_expired(),
            done=lambda registry, edit_id: registry.get_edit(edit_id).retired_at is not None,
            method="RetireEdit",
        ),
        "update_quota": Commit(
            act=lambda registry, _: registry.update_quota(
                DEFAULT_TENANT, {"max_entries": 7}, request=key("UpdateQuota")
            ),
            done=lambda registry, _: registry.get_quota(DEFAULT_TENANT)[0].max_entries == 7,
            method="UpdateQuota",
        ),
        "extend": Commit(
            prepare=_claimed,
            act=lambda registry, claims: registry.extend(claims, lease_s=7_200),
            done=lambda registry, claims: _state(registry, claims).updated_at > claims[0].edit.updated_at,
        ),
        "trained": Commit(
            prepare=_claimed,
            act=lambda registry, claims: registry.trained(claims),
            done=lambda registry, claims: _state(registry, claims).state is EditState.TRAINED,
        ),
        "give_back": Commit(
            prepare=_claimed,
            act=lambda registry, claims: registry.give_back(claims),
            done=lambda registry, claims: _state(registry, claims).attempt == 0,
        ),
        "create_tenant": Commit(
            act=lambda registry, _: registry.create_tenant(FRESH, request=key("CreateTenant")),
            done=lambda registry, _: FRESH in {it.name for it in registry.list_tenants()},
            method="CreateTenant",
        ),
        "add_key": Commit(act=_add_key, done=lambda registry, _: "k2" in _keys(registry), method="CreateKey"),
        "revoke_key": Commit(
            prepare=_key,
            act=lambda registry, key_id: registry.revoke_key(key_id, request=key("RevokeKey")),
            done=lambda registry, key_id: _keys(registry)[key_id].revoked_at is not None,
            method="RevokeKey",
        ),
        "rotate_key": Commit(
            prepare=_key,
            act=_rotate_key,
            done=lambda registry, key_id: {"k2"} == set(_keys(registry)) - {key_id},
            method="RotateKey",
        ),
        "end_key": Commit(
            prepare=lambda registry: _key(registry, 1.0),
            act=_resolve,
            done=lambda registry, key_id: _keys(registry)[key_id].revoked_at is not None,
            method="end_key",
        ),
        "add_calibration": Commit(
            act=_calibrate, done=lambda registry, _: len(registry.list_calibrations(FINGERPRINT)) > 0
        ),
    }
)


def die_at(url: str, commit: str, side: str, prepared: Any) -> None:
    """Be a process that is killed at one side of a commit."""
    arm(f"registry.{commit}.{side}=kill")
    COMMITS[commit].act(SqlRegistry(url), prepared)
