"""Pictures in, training samples out: sources, the pipeline, the degradation.

    decode.py        one image file -> HWC uint8, or the reason why not
    locate.py        data.path -> source: folders, shards, TFDS, mixtures
    sources.py       random access to many pictures (a folder, a list of arrays)
    shards.py        ... in ArrayRecord files, written by shard_writer.py
    tfds_source.py   ... in a TFDS dataset; gendr_photos.py makes one
    pipeline.py      source -> crops, in a global order that one integer describes
    degrade/         crops -> what a bad camera would have made of them (jax)

Nothing is imported here: the loader's worker processes import `sources` and
`pipeline`, which know nothing of jax, while `degrade` is jax and nothing else.
"""
