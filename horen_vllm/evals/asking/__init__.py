"""Asking: questions go to a server (or to a model in this process), answers become records in a file."""
