"""``horen serve``: vLLM with the plugin, as this process."""

import os
from typing import Annotated

import typer

from horen_vllm.cli.artifacts import ArtifactsOption, artifact_source
from horen_vllm.cli.connection import CLEAR_TEXT, ControlOption, HomeOption, control_endpoint, security
from horen_vllm.cli.control import ModelOption, NameOption, SiteOption
from horen_vllm.cli.model_folder import open_model_folder
from horen_vllm.cli.ports import claim_port
from horen_vllm.cli.server_command import (
    ServerDtype,
    ServerSettings,
    check_reach,
    server_command,
    server_environment,
)
from horen_vllm.cli.stack import DEFAULT_PORT

PortOption = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the OpenAI server; 0: a free one.")]
DtypeOption = Annotated[
    ServerDtype,
    typer.Option(
        "--dtype",
        help="Type in which vLLM runs the model; auto: float32 on CPU, the model's own (mostly bfloat16) on GPU.",
    ),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Let vLLM compile the model: starts slower, answers faster.")
]
LengthOption = Annotated[
    int | None, typer.Option("--max-model-len", min=1, help="Most tokens of prompt and answer (default: the model's).")
]
KeyBudgetOption = Annotated[
    int | None, typer.Option("--key-budget-mib", min=1, help="Server memory for keys and routing spaces (256).")
]
ValueBudgetOption = Annotated[
    int | None, typer.Option("--value-budget-mib", min=1, help="Server memory for value vectors (64).")
]
FirstScoresOption = Annotated[
    bool,
    typer.Option("--first-scores", help="Decide by scores before refinement where they are certain, and report those."),
]


def serve(
    ctx: typer.Context,
    *,
    model: ModelOption,
    name: NameOption = None,
    site: SiteOption = None,
    port: PortOption = DEFAULT_PORT,
    control: ControlOption = None,
    home: HomeOption = None,
    artifacts: ArtifactsOption = None,
    replica_id: Annotated[
        str | None, typer.Option(help="Name of this server in the control plane (default: HOST-PORT).")
    ] = None,
    dtype: DtypeOption = ServerDtype.AUTO,
    compiled: CompileOption = False,
    max_model_len: LengthOption = None,
    key_budget_mib: KeyBudgetOption = None,
    value_budget_mib: ValueBudgetOption = None,
    first_scores: FirstScoresOption = False,
) -> None:
    """Run vLLM's OpenAI server with the plugin on 127.0.0.1.

    Arguments after -- go to vLLM as they are.
    """
    check_reach(ctx.args, os.environ)
    address, at_home = control_endpoint(control, home)
    settings = ServerSettings(
        model=open_model_folder(model, name=name, site=site),
        port=claim_port(port, "--port"),
        control=address,
        artifacts=artifact_source(artifacts, home=home, otherwise=os.environ.get("HOREN_HOME", ".")).location,
        replica_id=replica_id,
        dtype=dtype,
        compiled=compiled,
        max_model_len=max_model_len,
        key_budget_mib=key_budget_mib,
        value_budget_mib=value_budget_mib,
        first_scores=first_scores,
        extra=tuple(ctx.args),
    )
    command = server_command(settings)
    environment = {
        **os.environ,
        **server_environment(settings, os.environ),
        **(CLEAR_TEXT if at_home else security().environment()),
    }
    os.execvpe(command[0], command, environment)  # noqa: S606
