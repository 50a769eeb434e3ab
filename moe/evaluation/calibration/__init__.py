"""Calibration on validation rows: temperatures, abstention thresholds, thresholds of labels, and conformal label sets.

What is fitted here, `moe.inference.calibration` reads, and every prediction applies it.
"""
