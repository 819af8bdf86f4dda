"""GRACE's radii: the distance below which each entry of a revision fires."""

from collections.abc import Mapping

from horen_vllm.plugin.breath import breathing
from horen_vllm.plugin.entries import ResidentEntry


def effective_radii(first: float, entries: Mapping[str, ResidentEntry]) -> tuple[float, ...]:
    """Return each entry's radius; one more at the end stands for no entry.

    An entry's radius ends at every split that an entry of the same revision names for it.

    Parameters
    ----------
    first
        Radius of an entry whose file gives none.
    entries
        By edit id, in the order of their indices.
    """
    radii = {}
    for edit_id, entry in breathing(entries.items()):
        radii[edit_id] = first if entry.row.radius is None else entry.row.radius
    for entry in breathing(entries.values()):
        for edit_id, radius in entry.row.splits:
            if edit_id in radii:
                radii[edit_id] = min(radii[edit_id], radius)
    return (*radii.values(), first)
