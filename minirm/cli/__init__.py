"""The command line: the only place that parses arguments or prints."""

STOPPED = 130
"""Exit status of what SIGINT ends: 128 and the signal's number."""
