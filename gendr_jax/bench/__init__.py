"""Benchmarks on this machine: stages of restoring, programs of a training step.

`timing.py` times calls in turn, `ceiling.py` measures the FLOP/s of matrix products,
`restoring.py` and `training.py` measure, `peer.py` is the same pass in PyTorch,
`report.py` writes tables and JSON. Estimates for other hardware are `gendr_jax/plan/`.
"""
