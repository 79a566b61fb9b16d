"""Measure and compare folders of restored pictures, and report the results.

    files.py       pictures of a folder, matched by file stem
    partners.py    which files of two folders belong together
    pairing.py     test items: ground truth, input and results of each picture
    sizes.py       the size at which pictures are compared
    methods.py     sources of results: files, bicubic, a restorer
    measuring.py   metrics of every picture of every method, in batches of one size
    set_metrics.py metrics of a method's set of pictures (FID)
    statistics.py  means with intervals, paired differences
    winners.py     the best method of each metric
    results.py     the results as JSON, CSV and a table
    gallery.py     thumbnails, and crops where methods differ
    page.py        the report in one HTML file (page.html, page.css, page.js,
                   pictures.js)
    test_sets.py   published test sets (sets/*.sha256)

Formulas are in `gendr_jax/metrics/`, flags in `gendr_jax/cli/evaluate_flags.py`.
"""
