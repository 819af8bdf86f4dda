"""The editor's copy of a codebook, and what an edit means for it."""
