"""The `gendr` command: one file a subcommand, which parses flags and calls the library.

No other package imports this one. Heavy imports are inside functions, so that `--help`
and errors in flags are printed at once.
"""
