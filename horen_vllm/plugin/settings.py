"""``additional_config["horen"]``: the structure of the engine half, nothing that changes while it serves.

vLLM hashes it into its compile cache, so revisions and paths never go in here.
"""

from dataclasses import dataclass, fields
from typing import Any, Final

from horen_vllm.errors import InvalidArgument

MOST_SUBJECT_RANGES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the plugin must know before a model is traced."""

    site: str
    """Module name of the edit site, e.g. ``model.layers.29.mlp.down_proj``."""
    key_budget_mib: int = 256
    """Memory for keys on each rank, in MiB; preallocated."""
    value_budget_mib: int = 64
    """Memory for value vectors on each rank, in MiB; preallocated."""
    subject_ranges: int = 4
    """Ranges of a prompt's tokens that can be left out of a query for masked subjects, for each running request."""
    static_dir: str | None = None
    """Folder of codebooks to serve without a registry (``horen codebook save``)."""
    first_scores: bool = False
    """Whether requests are decided by scores before refinement where these are certain, and told those."""
    poison_freed: bool = False
    """Whether rows that belong to no entry hold NaN, so that a wrong read cannot go unseen: for tests."""

    @classmethod
    def from_additional_config(cls, config: Any) -> "EngineSettings | None":
        """Return the settings, or None when the configuration does not mention horen.

        Raises
        ------
        InvalidArgument
            ``invalid_engine_settings``, naming the field that is unknown, missing or out of range.
        """
        section = config.get("horen") if isinstance(config, dict) else None
        if section is None:
            return None
        if not isinstance(section, dict):
            message = f"additional_config.horen = {section!r}: give an object with at least 'site'."
            raise InvalidArgument(message, code="invalid_engine_settings")
        known = {field.name for field in fields(cls)}
        unknown = set(section) - known - {"build"}
        if unknown:
            message = f"additional_config.horen has an unknown field {min(unknown)!r}; known: {sorted(known)}."
            raise InvalidArgument(message, code="invalid_engine_settings")
        if not isinstance(section.get("site"), str):
            message = "additional_config.horen needs 'site', the module name of the linear layer to wrap."
            raise InvalidArgument(message, code="invalid_engine_settings")
        settings = cls(**{name: value for name, value in section.items() if name in known})
        settings._check()
        return settings

    def _check(self) -> None:
        for name in ("key_budget_mib", "value_budget_mib"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                message = f"additional_config.horen.{name} = {value!r}: give a whole number of MiB, at least 1."
                raise InvalidArgument(message, code="invalid_engine_settings")
        ranges = self.subject_ranges
        if isinstance(ranges, bool) or not isinstance(ranges, int) or not 0 <= ranges <= MOST_SUBJECT_RANGES:
            message = (
                f"additional_config.horen.subject_ranges = {ranges!r}: "
                f"give a whole number from 0 to {MOST_SUBJECT_RANGES}."
            )
            raise InvalidArgument(message, code="invalid_engine_settings")
        if not isinstance(self.static_dir, str | None):
            message = f"additional_config.horen.static_dir = {self.static_dir!r}: give the path of a folder."
            raise InvalidArgument(message, code="invalid_engine_settings")
        for name in ("first_scores", "poison_freed"):
            if not isinstance(getattr(self, name), bool):
                message = f"additional_config.horen.{name} = {getattr(self, name)!r}: give true or false."
                raise InvalidArgument(message, code="invalid_engine_settings")
