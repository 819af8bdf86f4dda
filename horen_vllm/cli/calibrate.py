"""``horen calibrate``: fits routing space and thresholds to one base model, and compares the presets on it."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from horen_vllm.artifacts.opening import ArtifactSource
from horen_vllm.cli.artifacts import ArtifactsOption, artifact_source
from horen_vllm.cli.control import ModelOption, SiteOption
from horen_vllm.cli.database import DatabaseHomeOption, DatabaseOption, database_url
from horen_vllm.cli.layout import HomeLayout
from horen_vllm.cli.model_folder import open_model_folder
from horen_vllm.cli.output import JsonFlag
from horen_vllm.cli.worker import WorkerDtype
from horen_vllm.core.presets import MAX_FALSE_FIRE_RATE

_LEAST_RATE: Final = 0.0001


def calibrate(
    *,
    model: ModelOption,
    background: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts that must not fire, as JSON lines (default: the built-in ones)."),
    ] = None,
    false_fire_rate: Annotated[
        float, typer.Option(min=_LEAST_RATE, max=MAX_FALSE_FIRE_RATE, help="Share of them that may fire.")
    ] = 0.01,
    subject_rate: Annotated[
        float,
        typer.Option(min=_LEAST_RATE, max=0.9, help="Share of other questions about an edit's subject that may fire."),
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw that divides the prompts.")] = 0,
    site: SiteOption = None,
    device: Annotated[str, typer.Option(help="Torch device to run the model on.")] = "cpu",
    dtype: Annotated[WorkerDtype, typer.Option(help="Type of the weights, as the worker's.")] = WorkerDtype.FLOAT32,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    database: DatabaseOption = None,
    home: DatabaseHomeOption = None,
    artifacts: ArtifactsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for plot and numbers (default: HOME/calibration/VERSION-MODEL)."),
    ] = None,
    compare: Annotated[bool, typer.Option(help="Compare the presets on prompts that were held out.")] = True,
    store: Annotated[bool, typer.Option(help="Let new codebooks use the result.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Fit the presets to a base model, compare them, and let new codebooks use what was found."""
    folder = open_model_folder(model, site=site)
    layout = _layout(database, home)
    stores = _stores(database, home, artifacts, layout) if store else None
    # torch, transformers and matplotlib, which other commands do not need.
    from horen_vllm.cli.calibrate_run import CalibrateOptions, run_calibration  # noqa: PLC0415
    from horen_vllm.editor.calibration.calibrated import CalibrationSettings  # noqa: PLC0415

    options = CalibrateOptions(
        folder=str(folder.path),
        site=folder.site,
        title=folder.name,
        background=background,
        settings=CalibrationSettings(
            false_fire_rate=false_fire_rate,
            subject_rate=subject_rate,
            seed=seed,
            source=background.name if background else "built-in",
        ),
        device=device,
        dtype=dtype.value,
        threads=threads,
        stores=stores,
        out=out,
        reports=layout.root / "calibration" if layout else Path("calibration"),
        compare=compare,
    )
    run_calibration(options, as_json=as_json)


def _layout(database: str | None, home: Path | None) -> HomeLayout | None:
    folder = home or (None if database else os.environ.get("HOREN_HOME"))
    return HomeLayout(Path(folder)) if folder else None


def _stores(
    database: str | None, home: Path | None, artifacts: str | None, layout: HomeLayout | None
) -> tuple[str, ArtifactSource]:
    """Return database and artifact store; a home that is not there yet is made."""
    url = database_url(database, home)
    if layout is not None and not layout.database.exists():
        # SQLAlchemy and Alembic, which `horen --help` does not need.
        from horen_vllm.registry.migrate import upgrade  # noqa: PLC0415

        layout.create()
        upgrade(url)
    return url, artifact_source(artifacts, home=home, otherwise=layout.root if layout else None)
