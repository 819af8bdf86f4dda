"""Edit facts in a served LLM: HoReN (arXiv 2605.08143) as an editing runtime on vLLM."""

__version__ = "0.1.0"
