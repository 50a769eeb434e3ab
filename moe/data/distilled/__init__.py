"""Data of distillation: its settings, and training rows that carry the soft labels of teachers.

The teachers themselves are left to `moe.distill`, the loss to `moe.training`.
"""
