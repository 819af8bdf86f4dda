"""Thresholds of codebooks that have lost entries, computed as at a publication.

Knows the registry's port; the rule is in `codebook.false_fires`.
"""

import time
from typing import Final

import structlog

from horen_vllm.editor.working.work import Tools
from horen_vllm.errors import HorenError, Unavailable
from horen_vllm.ids import CodebookName

_PAUSE_S: Final = 60.0
"""How long a codebook is left alone whose threshold could not be computed."""


class ThresholdKeeper:
    """Gives codebooks of one base model the threshold that their keys call for.

    Parameters
    ----------
    tools
        The worker's.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._left_alone: dict[CodebookName, float] = {}

    def settle_one(self) -> bool:
        """Set the threshold of one codebook that lacks it; return False when there is none.

        Raises
        ------
        Unavailable
            When the registry does not answer.
        """
        for name in self._tools.registry.thresholds_due(self._tools.editable.fingerprint):
            if time.monotonic() >= self._left_alone.get(name, 0.0):
                self._settle(name)
                return True
        return False

    def _settle(self, name: CodebookName) -> None:
        registry = self._tools.registry
        log = structlog.get_logger().bind(codebook=str(name))
        try:
            book = self._tools.shelf.current(name)
            threshold = book.parameters.threshold if book.false_fires is None else book.false_fires.threshold()
            made = registry.set_threshold(name, base_revision=book.revision, threshold=threshold)
        except HorenError as exc:
            if isinstance(exc, Unavailable) and exc.code != "editor_surroundings":
                raise
            # Somebody was faster, and is to be looked at again at once; anything else may last.
            if exc.code != "revision_moved":
                self._left_alone[name] = time.monotonic() + _PAUSE_S
                log.warning("threshold not computed", code=exc.code, reason=exc.message)
        else:
            self._left_alone.pop(name, None)
            if made is not None:
                log.info("threshold set", revision=made.number, threshold=made.threshold)
