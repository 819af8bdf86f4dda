"""A short soak on the vLLM that is installed, on one of its runners; ``make versions`` runs it on another release.

``python -m tests.e2e.release v1``, and with ``tests/e2e/shim`` on PYTHONPATH ``... v2``; the report goes to stdout.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from horen_vllm.core.architectures import default_site
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.plugin.compat import vllm_version
from tests.e2e import soak
from tests.e2e.configurations import CONFIGURATIONS

# Without n > 1: before 0.31, V2 draws tokens by instructions that Triton's interpreter lacks.
RUNNERS = {
    "v1": (dataclasses.replace(CONFIGURATIONS["v1-preemption"], parallel_share=0.0), 90),
    "v2": (dataclasses.replace(CONFIGURATIONS["v2"], parallel_share=0.0), 30),
}


def main() -> int:
    """Soak one runner; 0 when every answer was the oracle's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runner", choices=RUNNERS)
    name = parser.parse_args().runner
    CONFIGURATIONS[name], requests = RUNNERS[name]
    model = demo_model_dir()
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    site = default_site(str(model), config["architectures"][0], config["num_hidden_layers"])
    with tempfile.TemporaryDirectory() as folder:
        report = soak.run(name, str(model), site, Path(folder), requests=requests, seed=1, with_controls=False)
    sys.stdout.write(json.dumps({"vllm": vllm_version(), **report}, indent=2) + "\n")
    return 1 if report["complaints"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
