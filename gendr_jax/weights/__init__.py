"""Weights on disk: our folders, PyTorch files, training checkpoints.

Ours:

    folder.py       a weights folder of ours: gendr.json, Orbax components, prompt.npz
    gendr_json.py   what a folder says of itself
    digest.py       sha256 over the contents of a tree of arrays
    locate.py       from what a user typed to a local folder
    checkpoint.py   training state; manifest.py and fingerprint.py, its digests

Other programs', in the order of the work (docs/weights.md):

    tensors.py      files opened, not read; pickles.py: those that PyTorch pickled
    names.py        one bijective map between our paths and torch names
    layouts.py      where our tensors stand in foreign files; the tables, each walked
                    from a configuration: ldm.py, dinov2_hub.py, lpips_files.py,
                    dists_files.py
    sources.py      what a path holds; torch_files.py: component folders,
                    single_files.py: the rest; components.py: check, then read
    lora_files.py   adapters; lora_names.py, lora_settings.py; adapt.py: onto a UNet
    convert.py      sources in, one folder out (destination.py); export_files.py: for
                    PyTorch; describe.py: what `gendr inspect` says

Weights are nested dicts of arrays with string keys everywhere.
"""
