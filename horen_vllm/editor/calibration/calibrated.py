"""Calibrated presets: method parameters with everything that had to be measured on one base model.

Of the background prompts, some fit the routing space and others the thresholds: on the prompts that a space was fitted
on, queries are spread more evenly than on any others, and a threshold from them would let twice as many fire.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from horen_vllm.artifact import digest_of
from horen_vllm.core.presets import MethodParameters, SpanMode, known_model, preset_parameters
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.editor.calibration.background import BackgroundPrompt
from horen_vllm.editor.calibration.fitting import WORD_SHARE, fit_space
from horen_vllm.editor.calibration.samples import Sample, sampled, split
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.spaces import SpaceManifest, encode_background, encode_space

HELD_OUT_SHARE: Final = 0.2
"""Share of the background that is kept for comparing presets; half of the rest fits the space, half the thresholds."""
DEFAULT_RATE: Final = 0.01
"""Share of background queries that may fire, unless the operator says otherwise."""
DEFAULT_SUBJECT_RATE: Final = 0.1
"""Share of prompts on another fact that may fire although they name an entry's subject."""
_MOST_BACKGROUND: Final = 24_000_000
"""Numbers in the background queries of one preset; a wide routing space gets fewer queries."""
_PLACEHOLDER: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """What the operator chooses."""

    false_fire_rate: float = DEFAULT_RATE
    subject_rate: float = DEFAULT_SUBJECT_RATE
    word_share: float = WORD_SHARE
    seed: int = 0
    held_out_share: float = HELD_OUT_SHARE
    """Share of the prompts that have no part in the fit."""
    source: str = "built-in"
    """Where the background prompts came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedPreset:
    """One preset, ready for codebooks of the base model."""

    keying: Keying
    background: torch.Tensor | None
    """[B, W] queries that the threshold follows."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What the parameters name, by content hash."""

    @property
    def parameters(self) -> MethodParameters:
        """The method parameters of new codebooks."""
        return self.keying.parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All presets of one base model, and the prompts that had no part in them."""

    presets: dict[str, CalibratedPreset]
    held_out: tuple[BackgroundPrompt, ...]


def calibrate_presets(
    editable: EditableModel,
    model: str,
    prompts: Sequence[BackgroundPrompt],
    settings: CalibrationSettings,
    memory: MemoryLimit | None = None,
    progress: Callable[[str], None] = lambda _stage: None,
) -> Calibration:
    """Return every preset with its space and thresholds fitted on background prompts.

    `horen-paper` and `horen-reference` keep the threshold that is published for the model; where none is, theirs
    follows the background like that of the others. `grace` has nothing to fit.

    Parameters
    ----------
    model
        Name by which published thresholds are found.
    prompts
        Checked by `background.check_background`.
    progress
        Is told the stage that begins.
    """
    half = (1.0 - settings.held_out_share) / 2
    shares = (half, half, settings.held_out_share)
    fit, fire, held_out = split(prompts, shares, settings.seed)
    work = _Work(editable, settings, len(fit) + len(fire), memory)
    presets: dict[str, CalibratedPreset] = {}
    for name in ("horen-paper", "horen-reference"):
        progress(f"{name}: threshold")
        presets[name] = work.paper(name, model, fire)
    progress("cosine: threshold")
    presets["cosine"] = work.followed(Keying(preset_parameters("cosine", model, _PLACEHOLDER)), fire)
    progress("calibrated: routing space")
    space = work.space(fit)
    progress("calibrated: thresholds")
    presets["calibrated"] = work.calibrated(model, space, fire)
    presets["grace"] = CalibratedPreset(keying=Keying(preset_parameters("grace", model)), background=None)
    return Calibration(presets=presets, held_out=tuple(held_out))


@dataclass(frozen=True, slots=True)
class _Work:
    editable: EditableModel
    settings: CalibrationSettings
    num_prompts: int
    memory: MemoryLimit | None

    def paper(self, name: str, model: str, fire: Sequence[BackgroundPrompt]) -> CalibratedPreset:
        if known_model(model) is not None:
            return CalibratedPreset(keying=Keying(preset_parameters(name, model)), background=None)
        return self.followed(Keying(preset_parameters(name, model, _PLACEHOLDER)), fire)

    def space(self, fit: Sequence[BackgroundPrompt]) -> RoutingSpace:
        sample = self._sampled(fit, calibrated_base(""))
        words = [context.words for context in sample.contexts]
        return fit_space(sample.means, words, word_share=self.settings.word_share)

    def calibrated(self, model: str, space: RoutingSpace, fire: Sequence[BackgroundPrompt]) -> CalibratedPreset:
        base = calibrated_base(model)
        space_file = encode_space(space, self._manifest(base))
        keying = Keying(replace(base, space=digest_of(space_file)), space)
        named = [prompt for prompt in fire if prompt.subject is not None]
        masked = self._sampled(named, base, masked=True)
        limit = subject_threshold(masked, [it.relation for it in named], keying, self.settings.subject_rate)
        keying = replace(keying, parameters=replace(keying.parameters, anchored_threshold=limit))
        followed = self.followed(keying, fire)
        return replace(followed, files=followed.files | {digest_of(space_file): space_file})

    def followed(self, keying: Keying, fire: Sequence[BackgroundPrompt]) -> CalibratedPreset:
        """Let a preset's threshold follow the background; it begins where an empty codebook has it."""
        queries = self._sampled(fire, keying.parameters).queries(keying)
        queries = queries[: max(1, _MOST_BACKGROUND // queries.shape[1])]
        data = encode_background(queries, self._manifest(keying.parameters))
        parameters = replace(
            keying.parameters,
            threshold=0.0,
            background=digest_of(data),
            false_fire_rate=self.settings.false_fire_rate,
        )
        return CalibratedPreset(
            keying=replace(keying, parameters=parameters), background=queries, files={digest_of(data): data}
        )

    def _sampled(
        self, prompts: Sequence[BackgroundPrompt], parameters: MethodParameters, *, masked: bool = False
    ) -> Sample:
        subjects = [it.subject for it in prompts] if masked else None
        return sampled(self.editable, [it.prompt for it in prompts], parameters, subjects, self.memory)

    def _manifest(self, parameters: MethodParameters) -> SpaceManifest:
        return SpaceManifest(
            fingerprint=self.editable.fingerprint,
            site=self.editable.site,
            window_ratio=parameters.window_ratio,
            span=parameters.span.value,
            prompts=self.num_prompts,
            source=self.settings.source,
        )


def calibrated_base(model: str) -> MethodParameters:
    """Return the parameters of the preset ``calibrated`` that are the same for every model."""
    return replace(
        preset_parameters("cosine", model, _PLACEHOLDER),
        preset="calibrated",
        span=SpanMode.CONTENT,
        anchors=True,
        mask_subject=True,
    )


def subject_threshold(masked: Sample, relations: Sequence[str | None], keying: Keying, rate: float) -> float:
    """Return the score that a share `rate` of prompts have with an entry on another fact, the subject masked.

    Every prompt is taken as an entry, and asked every prompt of another relation. As the subjects are masked, prompts
    on different subjects stand for prompts on one.

    Parameters
    ----------
    masked
        Prompts with their subjects masked, in all forms.
    relations
        What each text asks; texts that do not say are taken to ask different things.
    """
    queries = masked.queries(keying)
    forms = _by_form(masked.texts)
    best = torch.stack([torch.stack([queries[rows] @ queries[others].T for others in forms]).amax(0) for rows in forms])
    texts = masked.texts[forms[0]].tolist()
    names = [relations[text] for text in texts]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    own = torch.tensor([-1 - at if name is None else numbers[name] for at, name in enumerate(names)])
    other = own[:, None] != own[None, :]
    scores = best[:, other].flatten().sort(descending=True).values
    return round(float(scores[int(rate * len(scores))]), 4) if len(scores) else 0.0


def _by_form(texts: torch.Tensor) -> list[torch.Tensor]:
    """Return the rows of each form, of the texts that have all forms."""
    count = torch.bincount(texts)
    most = int(count.max()) if len(count) else 1
    rows = [(texts == text).nonzero()[:, 0] for text in torch.unique(texts) if count[text] == most]
    return list(torch.stack(rows).T) if rows else [torch.empty(0, dtype=torch.int64)]


def files_of(presets: Iterator[CalibratedPreset]) -> dict[str, bytes]:
    """Return every file that the presets name, by content hash."""
    return {digest: data for preset in presets for digest, data in preset.files.items()}
