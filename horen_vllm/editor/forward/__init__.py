"""Running the model: clean passes, the layers after the edit site, values forced by a hook."""
