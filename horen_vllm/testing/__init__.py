"""Shipped doubles and servers for tests: of this project, and of whoever implements its ports."""
