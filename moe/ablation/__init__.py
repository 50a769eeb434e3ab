"""Ablations: which part of a mixture is worth what, with and without retraining.

Grids of settings are left to `moe.sweep`.
"""
