"""Files of other programs: recognised, checked, read and written.

recognise.py         what a path holds
single_files.py      which networks a single file holds
tensors.py           files opened, not read; pickles.py: those that PyTorch pickled
names.py             one bijective map between our paths and torch names
layouts.py           tables of names, read in both directions
components.py        one network: check, then read
component_folder.py  folders of diffusers and transformers; config_json.py
ldm.py               LDM / CompVis checkpoints
adapters/            LoRA and the like, stored apart from a UNet
averages.py          averaged weights beside the last ones
dinov2.py  lpips.py  dists.py
"""
