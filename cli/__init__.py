"""The command line: one module a command; parsing, echo and exit codes, no logic."""
