"""Training: the stages, the loop that runs them, and what the loop writes.

stage.py is the contract between a stage and the loop, loop.py the loop itself; the
`*_step.py` files hold one stage each. Models, losses and data live elsewhere.
"""
