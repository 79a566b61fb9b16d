"""From a photograph to a larger one: files, sizes, colour, and the pass itself.

    image_io.py   picture files to arrays and back
    resize.py     bicubic enlargement and padding on the host
    color.py      colour fixes, pure JAX
    memory.py     what one pass needs and what the device has
    pictures.py   the kinds of picture a caller may hand in
    pipeline.py   Restorer: weights, one compiled program per size, the pass

Nothing here trains, and nothing here imports optax, grain, TFDS or torch.
"""
