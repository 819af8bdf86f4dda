"""A run: edits submitted in one stream, questions asked at its checkpoints, every answer recorded."""
