"""Ahead-of-time plans: memory, FLOPs and collectives by XLA, without the hardware."""
