"""Restore photographs: the networks' pass, tiles, colour fixes, folders.

    pipeline.py   Restorer, the public class
    options.py    its options, checked
    forward.py    the pure pass over a batch
    passes.py     runs pictures in one pass or by tiles
    programs.py   weights on devices, one compiled program for each shape of pass
    compiling.py  counts the programs that XLA compiled
    tiling.py     positions of tiles and blending weights
    tiled.py      restores one picture by tiles
    color.py      colour fixes, pure JAX
    residual.py   difference of a reduced result from its input
    memory.py     memory of a program and free memory of a device
    estimate.py   size, time and memory of a picture, without reading weights
    huge.py       restores pictures larger than memory, from file to file
    folders/      many files: naming, the loop, comparisons, the report

Nothing here trains, and nothing here imports optax, grain, TFDS or torch.
"""
