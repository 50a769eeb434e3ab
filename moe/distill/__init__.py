"""Distillation: soft labels of large teachers on unlabelled text, and the rows that a student trains on.

The student's training is left to `moe.training`.
"""
