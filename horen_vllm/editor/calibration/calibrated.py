"""Calibrated presets: method parameters with everything that had to be measured on one base model.

Of the background prompts, some fit the routing space and others the thresholds: on the prompts that a space was fitted
on, queries are spread more evenly than on any others, and a threshold from them would let twice as many fire.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from horen_vllm.artifacts.store import digest_of
from horen_vllm.core.presets import MethodParameters, SpanMode, known_model, preset_parameters
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.editor.calibration.background import BackgroundPrompt, builtin_background
from horen_vllm.editor.calibration.fitting import WORD_SHARE, fit_space
from horen_vllm.editor.calibration.sampler import Sampler
from horen_vllm.editor.calibration.samples import Sample, split
from horen_vllm.editor.calibration.transplant import transplanted
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.errors import FailedPrecondition
from horen_vllm.spaces import SpaceManifest, encode_background, encode_space

HELD_OUT_SHARE: Final = 0.2
"""Share of the background that is kept for comparing presets; half of the rest fits the space, half the thresholds."""
DEFAULT_RATE: Final = 0.01
"""Share of background queries that may fire, unless the operator says otherwise."""
DEFAULT_SUBJECT_RATE: Final = 0.2
"""Share of prompts on another fact that may fire although they name an entry's subject."""
_MOST_BACKGROUND: Final = 24_000_000
"""Numbers in the background queries of one preset; a wide routing space gets fewer queries."""
_LEAST_PAIRS: Final = 100
"""Fewer questions about the subjects of other prompts say too little."""
_STAND_INS: Final = 1000
"""Built-in prompts that are used where the background names too few subjects."""
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
    work = _Work(Sampler(editable, memory), settings, len(fit) + len(fire))
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
    sampler: Sampler
    settings: CalibrationSettings
    num_prompts: int

    def paper(self, name: str, model: str, fire: Sequence[BackgroundPrompt]) -> CalibratedPreset:
        if known_model(model) is not None:
            return CalibratedPreset(keying=Keying(preset_parameters(name, model)), background=None)
        return self.followed(Keying(preset_parameters(name, model, _PLACEHOLDER)), fire)

    def space(self, fit: Sequence[BackgroundPrompt]) -> RoutingSpace:
        sample = self._sample(fit, calibrated_base(""))
        words = [context.words for context in sample.contexts]
        return fit_space(sample.means, words, word_share=self.settings.word_share)

    def calibrated(self, model: str, space: RoutingSpace, fire: Sequence[BackgroundPrompt]) -> CalibratedPreset:
        base = calibrated_base(model)
        space_file = encode_space(space, self._manifest(base))
        keying = Keying(replace(base, space=digest_of(space_file)), space)
        keying = replace(keying, parameters=replace(keying.parameters, anchored_threshold=self._limit(keying, fire)))
        followed = self.followed(keying, fire)
        return replace(followed, files=followed.files | {digest_of(space_file): space_file})

    def followed(self, keying: Keying, fire: Sequence[BackgroundPrompt]) -> CalibratedPreset:
        """Let a preset's threshold follow the background; it begins where an empty codebook has it."""
        queries = self._sample(fire, keying.parameters).queries(keying)
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

    def _sample(self, prompts: Sequence[BackgroundPrompt], parameters: MethodParameters) -> Sample:
        found = self.sampler.sample([it.prompt for it in prompts], parameters)
        if not found.contexts:
            message = "the model takes no background prompt in every form: its tokenizer or chat template is at fault."
            raise FailedPrecondition(message, code="unsupported_tokenizer")
        return found

    def _limit(self, keying: Keying, fire: Sequence[BackgroundPrompt]) -> float:
        """Return c of entries with anchors, from prompts and as many questions about the same subjects.

        Where the background names too few subjects, the built-in one stands in.
        """
        pairs = self._pairs(fire)
        if len(pairs) < _LEAST_PAIRS:
            pairs = self._pairs(builtin_background()[:_STAND_INS])
        prompts, subjects, asked = zip(*pairs, strict=True) if pairs else ((), (), ())
        entries = self.sampler.masked(prompts, subjects, keying.parameters)
        queries = self.sampler.masked(asked, subjects, keying.parameters)
        return subject_threshold(entries, queries, keying, self.settings.subject_rate)

    def _pairs(self, prompts: Sequence[BackgroundPrompt]) -> list[tuple[str, str | None, str]]:
        """Return prompts with their subjects and, of each, another question about that subject."""
        questions = transplanted(prompts, prompts, (), random.Random(self.settings.seed))
        return [(it.prompt, it.subject, text) for it, text in zip(prompts, questions, strict=True) if text is not None]

    def _manifest(self, parameters: MethodParameters) -> SpaceManifest:
        return SpaceManifest(
            fingerprint=self.sampler.editable.fingerprint,
            site=self.sampler.editable.site,
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


def subject_threshold(entries: Sample, asked: Sample, keying: Keying, rate: float) -> float:
    """Return the score that a share `rate` of questions have with an entry on another fact of their subject.

    Parameters
    ----------
    entries, asked
        Prompts and, with the same numbers, questions of other relations about the same subjects; all subjects masked.
    """
    keys, queries = keying.keys(entries.queries(keying)), asked.queries(keying)
    score_QN = torch.where(asked.texts[:, None] == entries.texts[None], queries @ keys.T, -torch.inf)
    scores = score_QN.amax(dim=1) if len(keys) else torch.empty(0)
    scores = scores[scores.isfinite()].sort(descending=True).values
    return round(float(scores[int(rate * len(scores))]), 4) if len(scores) else 0.0


def files_of(presets: Iterator[CalibratedPreset]) -> dict[str, bytes]:
    """Return every file that the presets name, by content hash."""
    return {digest: data for preset in presets for digest, data in preset.files.items()}
