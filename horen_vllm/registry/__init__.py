"""The SQL registry: codebooks, edits, revisions and replicas; ports for everyone else."""
