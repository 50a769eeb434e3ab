"""Training: the steps of a run, one training loop for all stages, their losses, callbacks and checkpoints.

Losses and their weighting come from `router`; `moe.checkpoints` writes finished models.
"""
