"""The command line: the only place where processes are put together."""
