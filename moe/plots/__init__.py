"""Plots: one style for all figures; training curves, results, calibration.

Numbers come from `moe.runs` and `moe.evaluation`; nothing is computed here.
"""
