"""Weights on disk: our folders, PyTorch files, training checkpoints.

    folder.py       a weights folder of ours: gendr.json, Orbax components, prompt.npz
    gendr_json.py   what a folder says of itself
    digest.py       sha256 over the contents of a tree of arrays
    locate.py       from what a user typed to a local folder
    names.py        one bijective map between our paths and torch names
    torch_files.py  component folders of diffusers and transformers
    checkpoint.py   training state; manifest.py and fingerprint.py, its digests

Weights are nested dicts of arrays with string keys everywhere.
"""
