"""How long things take here: stages of the restoring pass, programs of a training step.

`timing.py` times calls in turn, `ceiling.py` finds what a product of matrices reaches,
`restoring.py` and `training.py` measure, `peer.py` is the same pass in PyTorch,
`report.py` writes. Flags are in `cli/bench.py`; what a pod that is not here would do
is `gendr_jax/plan/`.
"""
