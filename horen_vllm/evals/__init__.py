"""Evaluation over HTTP only: nothing in here looks inside the server."""
