"""Training: settings, the stages, and the loop that runs one of them.

settings.py            every setting with its default, typed
typed.py               a configuration as settings; misspelt keys are refused
limits.py              range checks of settings
defaults.py            a stage's settings as a ConfigDict, for config files
stage.py               the interface between a stage and the loop
run_settings.py        settings and result of the loop
checkpoint_weights.py  a weights folder of any checkpoint
stages/                autoencoder, base model, distillation, pixel stages
run/                   the loop, checkpoints, logs, signals
"""
