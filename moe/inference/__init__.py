"""Predictions and generated text from a trained model: loading, scoring, streaming, calibration, abstention.

Measuring them is left to `moe.evaluation`; large data sets in shards to `moe.inference.bulk`.
"""
