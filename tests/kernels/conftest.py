"""Tests of the kernels. Those in ``interpreted`` need Triton's interpreter from the first import of triton on.

Triton decides when a kernel is defined whether it is interpreted, for the whole process, and vLLM imports triton too.
So a plain run leaves that folder out, and ``test_interpreter.py`` runs it in a process of its own.
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted/*"]
