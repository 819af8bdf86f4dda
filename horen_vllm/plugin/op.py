"""``horen::edit``: the one custom op, which hides the site's host-side plan from torch.compile."""

from typing import Any

import torch

from horen_vllm.plugin.site import EditSite

_SITES: dict[str, EditSite] = {}
"""Sites of this process by module name: a compiled graph can only carry a string."""


def edit(inputs: torch.Tensor, outputs: torch.Tensor, site: str) -> None:
    """Pool and route `inputs` [T, D_in] and add values to `outputs` [T, D_out] in place, as planned for the step."""
    _SITES[site].run(inputs, outputs)


def _edit_fake(inputs: torch.Tensor, outputs: torch.Tensor, site: str) -> None:  # noqa: ARG001 - the schema
    return None


_library = torch.library.Library("horen", "FRAGMENT")  # type: ignore[no-untyped-call]


def register() -> None:
    """Define the op in this process; harmless when called again."""
    from vllm.compilation.breakable_cudagraph import eager_break_during_capture  # noqa: PLC0415
    from vllm.utils.torch_utils import direct_register_custom_op  # noqa: PLC0415

    if not hasattr(torch.ops.horen, "edit"):
        direct_register_custom_op(
            "edit",
            eager_break_during_capture(edit),
            mutates_args=["outputs"],
            fake_impl=_edit_fake,
            target_lib=_library,
        )


def hook(linear: torch.nn.Module, name: str, site: EditSite) -> None:
    """Call the op after every forward of `linear`; parameter names and the module tree stay as they are."""
    _SITES[name] = site

    def after_forward(_module: torch.nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        outputs = result[0] if isinstance(result, tuple) else result
        torch.ops.horen.edit(args[0], outputs, name)
        return result

    linear.register_forward_hook(after_forward)
