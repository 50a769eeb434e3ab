"""All figures: one style, training curves, results, calibration.

The numbers come from `moe.runs` and `moe.evaluation`; nothing is computed here.
"""
