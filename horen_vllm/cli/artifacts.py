"""Where a command finds the artifacts, and where it keeps copies of those that come over a network."""

import os
from pathlib import Path
from typing import Annotated

import typer

from horen_vllm.artifacts.cached import DEFAULT_CACHE_MIB, CacheFolder, default_cache_folder
from horen_vllm.artifacts.location import is_url
from horen_vllm.artifacts.opening import ArtifactSource
from horen_vllm.cli.layout import HomeLayout
from horen_vllm.errors import InvalidArgument

ArtifactsOption = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        metavar="DIR|URL",
        help="Folder of trained entries, or s3://BUCKET/PREFIX (env: HOREN_ARTIFACTS; default: the home's folder).",
    ),
]


def artifact_source(chosen: str | None, *, home: Path | None, otherwise: Path | str | None = None) -> ArtifactSource:
    """Return where the artifacts are: `chosen`, or in `home`; else ``HOREN_ARTIFACTS``, else in the home `otherwise`.

    Parameters
    ----------
    chosen, home
        What the command line says.
    otherwise
        The home that is meant when nothing is said; None: there is none.

    Raises
    ------
    InvalidArgument
        ``artifacts_required``, when nothing names them; ``invalid_artifacts_url``; ``invalid_artifact_cache``, when
        ``HOREN_ARTIFACT_CACHE_MIB`` is no number.
    FailedPrecondition
        ``artifact_driver_missing``.
    """
    location = chosen or _in_home(home) or os.environ.get("HOREN_ARTIFACTS") or _in_home(otherwise)
    if location is None:
        message = "no artifacts are named: give --artifacts DIR|URL, as the other parts have it, or --home DIR."
        raise InvalidArgument(message, code="artifacts_required")
    if not is_url(location):
        location = str(Path(location).absolute())
    source = ArtifactSource(location=location, cache=_cache())
    source.open()  # a wrong address is told before a model is loaded
    return source


def known_artifacts(chosen: str | None, home: Path | None, database: str | None) -> str | None:
    """Return where a control plane finds the artifacts, as `artifact_source`; None when nothing names them."""
    otherwise = None if database else os.environ.get("HOREN_HOME")
    if not (chosen or home or otherwise or os.environ.get("HOREN_ARTIFACTS")):
        return None
    return artifact_source(chosen, home=home, otherwise=otherwise).location


def _in_home(home: Path | str | None) -> str | None:
    return str(HomeLayout(Path(home)).artifacts) if home else None


def _cache() -> CacheFolder:
    chosen = os.environ.get("HOREN_ARTIFACT_CACHE")
    size = os.environ.get("HOREN_ARTIFACT_CACHE_MIB", str(DEFAULT_CACHE_MIB))
    if not size.isdecimal():
        message = f"HOREN_ARTIFACT_CACHE_MIB = {size!r} is no number of MiB; 0 keeps no copies."
        raise InvalidArgument(message, code="invalid_artifact_cache")
    folder = Path(chosen) if chosen else default_cache_folder()
    return CacheFolder(folder=folder.absolute(), max_bytes=int(size) << 20)
