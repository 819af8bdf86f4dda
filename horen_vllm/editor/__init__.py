"""The editor: turns submitted edits into trained, verified entries."""
