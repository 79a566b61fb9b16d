"""Adapters of other programs, stored apart from the UNet they change.

lora.py             one adapter applied to a UNet
lora_names.py       names of trainers, recognised and mapped
lora_changes.py     tensors of an adapter as changes of kernels
lora_writing.py     our adapters as files of peft and kohya
lycoris.py          LoHa, LoKr, IA3 and other algebras
peft_settings.py    adapter_config.json
osediff.py          OSEDiff's dictionary of several adapters
"""
