"""The `gendr` command: one thin file a subcommand, flags to one call of the library.

    main.py     the entry point: dispatch, errors, exit status
    parser.py   argparse with our error messages

Nobody imports this package. Heavy imports wait inside functions, so that `--help` and
mistakes in flags are answered at once.
"""
