"""Weights on disk: our folders, and the files of other programs.

    resolve.py       from what a user typed to a folder: path, Hub id
    remote_paths.py  paths here and in object stores
    folder.py        a weights folder of ours: gendr.json, Orbax components, prompt.npz
    gendr_json.py    gendr.json: what a folder says of itself
    sha256.py        sha256 over the contents of a tree of arrays
    convert.py       sources in, one folder out (destination.py)
    joining.py       networks of several sources as one
    adapters.py      LoRA merged into a UNet or run beside it
    surgery.py       4 to 16 latent channels
    export.py        folders and files for PyTorch; export_readme.py
    one_file.py      a folder of ours as one safetensors file
    describe.py      what `gendr inspect` says
    verify.py        `--verify`: the same inputs through diffusers and through JAX
    foreign/         formats of other programs, one file each (docs/weights.md)

Weights are nested dicts of arrays with string keys everywhere.
"""
