"""Adapter files of other programs: LoRA, LoHa, LoKr, DoRA and weight differences.

lora.py             LoRA files as side paths of a UNet, or merged
lora_names.py       tensor names of PEFT, diffusers, kohya and LyCORIS
lora_changes.py     tensors of an adapter grouped by layer and checked
lora_writing.py     our adapters as files of PEFT, diffusers and kohya
lycoris.py          the equations: what an adapter adds to a weight
peft_settings.py    adapter_config.json
osediff.py          OSEDiff's dictionary of several adapters
"""
