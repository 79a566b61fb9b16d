"""Files of other programs: recognised, checked, read and written.

recognise.py         what a folder or file holds
single_files.py      which networks a single file holds
open_file.py         names, dtypes and shapes of a weights file, without its arrays
tensors.py           lazily read tensors; the safetensors writer
pickles.py           PyTorch's .bin, .ckpt and .pth files
names.py             one bijective map between parameter paths and torch names
layouts.py           tables from our names to a foreign file's, for both directions
components.py        one network: check, then read
component_folder.py  folders of diffusers and transformers; config_json.py
scheduler.py         scheduler_config.json of a pipeline
ldm.py               LDM / CompVis checkpoints
adapters/            LoRA, LoHa, LoKr, DoRA: weights of adapters
averages.py          averaged weights (EMA)
dinov2.py  lpips.py  dists.py
"""
