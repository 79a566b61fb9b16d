"""Restoring files and folders of pictures.

naming.py       from the paths of a command to pairs of input and output
run.py          the loop over them
comparisons.py  before and after in one picture
report.py       progress, and one line of JSON a picture
"""
