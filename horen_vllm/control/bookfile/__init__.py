"""A codebook as one file: a zip archive with its edits, its tombstones and its artifacts, sealed by a hash."""
