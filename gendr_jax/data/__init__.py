"""Pictures in, training samples out: sources, the pipeline, the degradation.

    decode.py     one image file -> HWC uint8, or the reason why not
    sources.py    random access to many pictures (a folder, a list of arrays)
    pipeline.py   source -> crops, in a global order that one integer describes
    degrade/      crops -> what a bad camera would have made of them (jax)

Nothing is imported here: the loader's worker processes import `sources` and
`pipeline`, which know nothing of jax, while `degrade` is jax and nothing else.
"""
