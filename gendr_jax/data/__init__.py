"""Training data: sources of photographs, the input pipeline, the degradation.

    decode.py        one image file -> HWC uint8, or an InputError with the reason
    open_source.py   data.path -> source: folders, shards, TFDS, mixtures
    sources.py       random access to many pictures (a folder, a list of arrays)
    shards.py        ... in ArrayRecord files, written by shard_writer.py
    tfds_source.py   ... in a TFDS dataset; gendr_photos.py makes one
    pipeline.py      source -> crops, in a global order that one integer describes
    degrade/         high-quality crops -> low-quality crops (Real-ESRGAN, in jax)

Nothing is imported here: the loader's worker processes import `sources` and
`pipeline`, which do not import jax, while `degrade` does.
"""
