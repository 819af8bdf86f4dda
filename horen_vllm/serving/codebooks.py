"""Which codebooks this server answers for, and what ``model: "NAME@CODEBOOK"`` means."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from horen_vllm.core.presets import SpanMode
from horen_vllm.errors import NotFound, Unavailable
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, TenantId
from horen_vllm.plugin.tag import RequestTag


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedCodebook:
    """A codebook that every worker of this server has applied."""

    name: CodebookName
    revision: int
    window_ratio: float
    span: SpanMode
    behind: bool = False
    """Whether requests must wait for a newer revision, which may be SERVING already."""


class ServedCodebooks:
    """The server's table of codebooks; changed by the sync agent, read by every request.

    Parameters
    ----------
    base_names
        Names under which the clean model is served.
    stale_after_s
        Seconds after the last heartbeat that the control plane took until codebooks are no longer answered for.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, base_names: Sequence[str], *, stale_after_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.base_names = tuple(base_names)
        self._stale_after_s = stale_after_s
        self._clock = clock
        self._contact: float | None = None
        self._static = False
        self._refresh: Callable[[], None] | None = None
        self._served: dict[CodebookName, ServedCodebook] = {}

    def show(self, codebooks: Iterable[ServedCodebook], *, confirmed_at: float | None) -> None:
        """Answer for exactly these; the control plane last took a heartbeat that was sent at `confirmed_at`."""
        self._served = {codebook.name: codebook for codebook in codebooks}
        self._contact = confirmed_at

    def show_static(self, codebooks: Iterable[ServedCodebook]) -> None:
        """Answer for exactly these, which no control plane can change: never stale."""
        self.show(codebooks, confirmed_at=None)
        self._static = True

    def refresh_by(self, refresh: Callable[[], None]) -> None:
        """Call `refresh` before the table is read for a request, so that it is never older than what it is made of."""
        self._refresh = refresh

    @property
    def stale(self) -> bool:
        """Whether the control plane has been silent for too long, or has never answered."""
        self._look()
        if self._static:
            return False
        return self._contact is None or self._clock() - self._contact > self._stale_after_s

    @property
    def lease_age_s(self) -> float:
        """Seconds since the heartbeat that was confirmed last was sent; infinite before the first."""
        return math.inf if self._contact is None else self._clock() - self._contact

    def revisions(self) -> dict[CodebookName, int]:
        """Return the applied revision of every codebook."""
        self._look()
        return {name: codebook.revision for name, codebook in self._served.items()}

    def model_names(self, tenant: TenantId | None = DEFAULT_TENANT) -> list[str]:
        """Return every ``NAME@CODEBOOK`` that `tenant` may ask for, under the first base name; none for None."""
        self._look()
        return [f"{self.base_names[0]}@{name.codebook}" for name in sorted(self._served) if name.tenant == tenant]

    def span_mode(self, codebook: str) -> SpanMode:
        """Return which prompt tokens the query span of a codebook in the table holds, by its full name."""
        return self._served[CodebookName.parse(codebook)].span

    def labelled(self, model: str, tenant: TenantId | None = DEFAULT_TENANT) -> CodebookName | None:
        """Return a model name's codebook as metrics name it: empty unless it is served; None for the clean model."""
        base, separator, codebook = model.rpartition("@")
        if tenant is None or model in self.base_names or not separator or base not in self.base_names:
            return None
        name = CodebookName(tenant, codebook)
        return name if name in self._served else CodebookName(tenant, "")

    def resolve(self, model: str, tenant: TenantId | None = DEFAULT_TENANT) -> RequestTag | None:
        """Return the tag for a request's model name; None for the clean model or a name that is not ours.

        Raises
        ------
        NotFound
            ``unknown_codebook``, also for another tenant's: the two look the same.
        Unavailable
            ``replica_stale``, when this server cannot know the codebook's current revision, or does not have it yet
            after it could not know it.
        """
        base, separator, codebook = model.rpartition("@")
        if model in self.base_names or not separator or base not in self.base_names:
            return None
        if self.stale:
            message = (
                f"this server has lost the control plane, so it cannot answer for {model!r}; {base!r} still works."
            )
            raise Unavailable(message, code="replica_stale")
        served = None if tenant is None else self._served.get(CodebookName(tenant, codebook))
        if served is None:
            raise NotFound(f"there is no codebook {codebook!r} for model {base!r}.", code="unknown_codebook")
        if served.behind:
            message = f"this server has yet to load the current revision of {model!r}; {base!r} still works."
            raise Unavailable(message, code="replica_stale")
        return RequestTag(str(served.name), served.window_ratio)

    def _look(self) -> None:
        if self._refresh is not None:
            self._refresh()
