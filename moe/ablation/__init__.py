"""Ablations: what each part of a mixture contributes, with and without training.

Grids of settings are in `moe.sweep`.
"""
