"""The method: routing space, query window, refinement, match, admission, paging. Torch and stdlib, no I/O."""
