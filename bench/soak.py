"""The long soak: at least 2,000 requests on the V1 runner and some on V2, each response judged by the oracle.

``make soak`` (``python -m bench.soak``) writes ``bench/results/soak.json`` and fails if a single response is wrong.
The load, the updates and the oracle are the tests' own: ``tests/e2e/soak.py``.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Final

from bench.provenance import provenance, write_result
from horen_vllm.core.architectures import default_site
from horen_vllm.demo.paths import demo_model_dir
from tests.e2e.launch import soak_report

RESULT: Final = Path(__file__).resolve().parent / "results" / "soak.json"
RUNS: Final = {"v1-preemption": 2000, "v2-preemption-async": 300}
SEED: Final = 20261123
TIMEOUT_S: Final = 7200


def main() -> int:
    """Run the soaks one after another and write what they counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    model = str(demo_model_dir())
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    site = default_site(model, config["architectures"][0], config["num_hidden_layers"])
    with tempfile.TemporaryDirectory() as folder:
        reports = [
            soak_report(
                name,
                model,
                site,
                Path(folder),
                requests=requests,
                seed=arguments.seed,
                controls=name == "v1-preemption",
                timeout_s=TIMEOUT_S,
            )
            for name, requests in RUNS.items()
        ]
    write_result(arguments.out, {"runs": reports, "provenance": provenance()})
    print(json.dumps(reports, indent=2))
    return 1 if any(report["complaints"] for report in reports) else 0


if __name__ == "__main__":
    raise SystemExit(main())
