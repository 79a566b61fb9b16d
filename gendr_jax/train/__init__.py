"""Training: settings, the three stages, and the run of one of them.

settings.py   every setting with its default, typed
typed.py      from a configuration to the settings; misspelt keys are refused
stage.py      the contract between a stage and the run
stages/       autoencoder, base model, distillation
run/          the loop and what a long run needs: checkpoints, logs, signals
"""
