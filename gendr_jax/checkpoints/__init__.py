"""Training checkpoints, whole or set aside.

manager.py    saving, restoring and keeping steps, by Orbax
manifest.py   hashes of every array, and one fingerprint of them all
barrier.py    waiting for the other processes, with a limit
"""
