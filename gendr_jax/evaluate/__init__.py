"""Folders of restored pictures measured, compared and shown.

    files.py       pictures of a folder, matched by file stem
    methods.py     where a method's pictures come from: files, bicubic, a restorer
    measuring.py   figures of every picture of every method, in batches of one size
    whole.py       figures of a method as a whole, by sets of pictures (FID)
    statistics.py  means with intervals, paired differences
    results.py     the results as JSON, CSV and a table
    gallery.py     thumbnails, and crops where methods differ
    page.py        the report in one HTML file (page.html, page.css, page.js,
                   pictures.js)
    test_sets.py   the test sets of the field (sets/*.sha256)

Formulas are in `gendr_jax/metrics/`, flags in `gendr_jax/cli/evaluate_flags.py`.
"""
