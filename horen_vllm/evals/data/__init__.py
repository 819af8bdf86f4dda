"""Data sets: files as published, or in the project's own forms, read into cases; and files of ordinary prompts."""
