"""Training checkpoints that are verified when they are read.

manager.py    save, restore and delete steps, by Orbax
manifest.py   shape, dtype and hash of every array, and one fingerprint of them all
barrier.py    barriers between processes, with a time limit
"""
