"""Checking an entry on its way into a codebook, and giving it the ids that are known there."""

from collections.abc import Callable
from dataclasses import replace

from horen_vllm.artifact import decode_entry, encode_entry
from horen_vllm.control.bookfile.layout import invalid_export
from horen_vllm.errors import DataLoss


def adopted(data: bytes, *, edit_id: str, fingerprint: str, site: str, rename: Callable[[str], str]) -> bytes:
    """Return an entry's file for a codebook that knows its edit as `edit_id`.

    Whose entry it is, a codebook says itself, whatever the file says; so the file stays as it is, unless the entry cuts
    the radius of others and names them.

    Parameters
    ----------
    fingerprint, site
        What the codebook is for.
    rename
        Returns the id, here, of another edit of the file; those that did not come along keep theirs, which then means
        nothing.

    Raises
    ------
    InvalidArgument
        ``invalid_export``, when it is no entry, or one for another base model or site.
    """
    try:
        entry = decode_entry(data)
    except DataLoss as exc:
        raise invalid_export(f"an artifact is no entry of edit {edit_id}") from exc
    manifest = entry.manifest
    if (manifest.fingerprint, manifest.site) != (fingerprint, site):
        raise invalid_export(f"the entry of edit {edit_id} was made for another model or site")
    splits = tuple((rename(other), radius) for other, radius in manifest.splits)
    if splits == manifest.splits:
        return data
    return encode_entry(replace(entry, manifest=replace(manifest, edit_id=edit_id, splits=splits)))
