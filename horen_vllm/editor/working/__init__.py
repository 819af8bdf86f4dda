"""The worker: edits from the queue in batches, entries into the registry."""
