"""A small model that knows the facts of an invented world, and the world itself."""
