"""The one error that says an edit itself cannot be made; the worker stores its code and sentence."""

from typing import ClassVar

from horen_vllm.errors import FailedPrecondition


class EditFailed(FailedPrecondition):
    """Training or verification did not bring the edit about; code and sentence say why, with the numbers."""

    default_code: ClassVar[str] = "edit_failed"
