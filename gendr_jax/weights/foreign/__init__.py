"""Files of other programs: recognised, checked, read and written.

recognise.py         what a path holds
single_files.py      which networks a single file holds
tensors.py           files opened, not read; pickles.py: those that PyTorch pickled
names.py             one bijective map between our paths and torch names
layouts.py           tables of names, read in both directions
components.py        one network: check, then read
component_folder.py  folders of diffusers and transformers; config_json.py
ldm.py               LDM / CompVis checkpoints
lora.py              adapters beside a UNet: lora_names.py, peft_settings.py,
                     lora_changes.py, lora_writing.py; lycoris.py: other algebras;
                     osediff.py: a dict of several
averages.py          averaged weights beside the last ones
dinov2.py  lpips.py  dists.py
"""
