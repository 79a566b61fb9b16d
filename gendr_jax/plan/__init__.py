"""A program on paper: what the real compiler says of a pod that is not here.

What lives here: chips, topologies, the programs to compile, and what is read from them.
What does not: flags and files that the user names (`cli/plan.py`), the step itself.
"""
