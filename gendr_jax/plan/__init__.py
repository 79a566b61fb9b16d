"""A program on paper: what the real compiler says of a pod that is not here."""
