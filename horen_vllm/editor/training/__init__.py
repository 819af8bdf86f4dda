"""Values: how they are stored and trained, and whether they give their target."""
