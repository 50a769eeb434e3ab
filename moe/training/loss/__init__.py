"""The loss of a training step: class, polarity, distillation and routing losses over all micro-batches and processes.

The formulas and the weighting of losses are left to `router`, the training loop to `moe.training`.
"""
