"""From a photograph to a larger one: files, sizes, colour, and the pass itself.

    image_io.py   picture files to arrays and back
    resize.py     bicubic enlargement and padding on the host
    color.py      colour fixes, pure JAX
    memory.py     what one pass needs and what the device has
    pictures.py   the kinds of picture a caller may hand in
    forward.py    the pure pass over a batch
    pipeline.py   Restorer: weights and one compiled program per size

Nothing here trains, and nothing here imports optax, grain, TFDS or torch.
"""
