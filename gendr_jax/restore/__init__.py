"""From a photograph to a larger one: files, sizes, colour, and the pass itself.

    image_io/     picture files to arrays and back
    streams.py    files too large to hold: regions, rows
    resize.py     bicubic enlargement and padding on the host
    bleed.py      colours under what is transparent
    color.py      colour fixes, pure JAX
    tiling.py     where tiles lie and how they blend
    pictures.py   the kinds of picture a caller may hand in
    forward.py    the pure pass over a batch
    memory.py     what one pass needs and what the device has
    estimate.py   what a picture will take, before any weight is read
    programs.py   weights on devices, one compiled program a shape of pass
    compiling.py  how many programs XLA compiled
    tiled.py      the order of work on one large picture
    passes.py     pictures through programs, whole or by tiles
    options.py    what a restorer is told, checked
    pipeline.py   Restorer: what a user may ask for and gets back
    huge.py       from file to file, nothing held whole
    residual.py   a result, reduced again, against its input

Nothing here trains, and nothing here imports optax, grain, TFDS or torch.
"""
