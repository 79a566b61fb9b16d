"""From a photograph to a larger one: the pass itself, tiles, colour, folders.

    pipeline.py   Restorer: what a user may ask for and gets back
    options.py    what a restorer is told, checked
    forward.py    the pure pass over a batch
    passes.py     pictures through programs, in one pass or by tiles
    programs.py   weights on devices, one compiled program a shape of pass
    compiling.py  how many programs XLA compiled
    tiling.py     positions of tiles and how they blend; tiled.py: the order of work
    color.py      colour fixes, pure JAX
    residual.py   a result, reduced again, against its input
    memory.py     what one pass needs and what the device has
    estimate.py   size, time and memory of a picture, before any weight is read
    huge.py       from file to file, through tiles, for pictures larger than memory
    folders/      many files: naming, the loop, comparisons, the report

Nothing here trains, and nothing here imports optax, grain, TFDS or torch.
"""
