"""Layouts of data files: how the fields of one row become cases."""
