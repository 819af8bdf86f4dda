"""What answers are worth: pure functions of texts, token ids and numbers (``docs/reference/eval-metrics.md``)."""
