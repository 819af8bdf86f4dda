"""What ``horen db gc`` does, in its order, and how it tells it."""

from dataclasses import dataclass

from rich.console import Console

from horen_vllm.artifacts.store import ArtifactStore
from horen_vllm.registry.collecting import Pruning
from horen_vllm.registry.store import SqlRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What was found, and what became of it."""

    pruned: tuple[Pruning, ...]
    """Codebooks with the oldest revision that each keeps; empty unless revisions were to be pruned."""
    purged: tuple[str, ...]
    """Codebooks that can no longer be brought back."""
    unknown: int
    """Files that the register did not know."""
    adopted: bool
    """Whether it knows them now."""
    condemned: tuple[str, ...]
    """Digests of files that nothing needs; they are deleted by a call after the grace."""
    deleted: tuple[str, ...]
    """Digests of files that had been condemned, and are gone."""


def collect(
    registry: SqlRegistry, artifacts: ArtifactStore, *, keep: int | None, grace_s: float, adopt: bool, dry_run: bool
) -> Collection:
    """Forget what may be forgotten; with `dry_run` only say which files nothing needs.

    Files that the register does not know may be another registry's, and are left alone unless they are to be adopted.

    Raises
    ------
    Unavailable
        ``registry_unavailable``, ``artifacts_unavailable``; what was done stays done, and the next call goes on.
    """
    unknown = registry.unknown_artifacts({it.digest: it.size for it in artifacts.list()})
    if dry_run:
        needless = tuple(registry.condemn_artifacts(grace_s=grace_s, dry_run=True))
        return Collection(pruned=(), purged=(), unknown=len(unknown), adopted=False, condemned=needless, deleted=())
    pruned = () if keep is None else tuple(registry.prune_revisions(keep))
    purged = tuple(map(str, registry.purge_deleted()))
    if adopt:
        registry.register_artifacts(unknown)
    deleted = tuple(registry.sweep_artifacts(artifacts.delete, grace_s=grace_s))
    condemned = tuple(registry.condemn_artifacts(grace_s=grace_s))
    return Collection(
        pruned=pruned, purged=purged, unknown=len(unknown), adopted=adopt, condemned=condemned, deleted=deleted
    )


def print_collection(found: Collection, *, dry_run: bool) -> None:
    """Print one line for each kind of thing, and one for each codebook that keeps more than was asked for."""
    console = Console(highlight=False)
    if dry_run:
        console.print(f"{len(found.condemned)} files are needed by nothing; nothing was changed.")
        _print_unknown(found, console)
        return
    for it in found.pruned:
        servers = f", since {', '.join(it.kept_for)} still serves an older one" if it.kept_for else ""
        console.print(f"{it.codebook}: revisions from {it.oldest} on are kept{servers}", markup=False)
    for name in found.purged:
        console.print(f"{name}: deleted a month ago, now for good", markup=False)
    _print_unknown(found, console)
    console.print(f"{len(found.deleted)} condemned files are deleted, {len(found.condemned)} more are condemned.")


def _print_unknown(found: Collection, console: Console) -> None:
    if found.adopted:
        console.print(f"{found.unknown} files were new to the register.")
    elif found.unknown:
        console.print(
            f"{found.unknown} files are unknown to this registry, and were left alone. If no other registry has its "
            "files here, --adopt lets them go."
        )
