"""The base model: loaded, checked, spread over ranks."""
