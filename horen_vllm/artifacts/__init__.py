"""Where files named by content hash are kept: a local folder, or an object store with a cache before it."""
