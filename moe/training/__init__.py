"""Training: the pipeline of steps, the one loop of all stages, objectives, callbacks and training checkpoints.

Losses and their balance come from `router`; finished models are written by `moe.checkpoints`.
"""
