"""Restore files and folders of pictures (`gendr restore`).

naming.py       input paths to pairs of input and output files
run.py          the loop over pictures
comparisons.py  before/after pictures
report.py       progress, and one line of JSON a picture
"""
