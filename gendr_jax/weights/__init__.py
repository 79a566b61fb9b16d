"""Weights on disk: gendr_jax's own folders, and files of other programs.

    resolve.py       from a path, URL, name or Hub id to a local file or folder
    remote_paths.py  local paths and URLs of object stores
    folder.py        a weights folder: gendr.json, Orbax components, prompt.npz
    gendr_json.py    gendr.json, the manifest of a weights folder
    sha256.py        sha256 over the contents of a tree of arrays
    convert.py       `gendr convert`: sources to one folder or file
    destination.py   output folders and files, written atomically
    choices.py       flags of `gendr convert` that override what sources say
    joining.py       networks of several sources as one
    adapters.py      LoRA of a UNet, merged or kept as side paths
    linear_ends.py   Adc and Pix of a linear autoencoder
    surgery.py       UNet weights for other channel counts
    export.py        folders and files for PyTorch; export_readme.py
    one_file.py      a weights folder as one safetensors file
    describe.py      `gendr inspect` of a foreign source
    verify.py        `--verify`: the same inputs through diffusers and through JAX
    foreign/         formats of other programs, one file each (docs/weights.md)

Weights are nested dicts of arrays with string keys everywhere.
"""
