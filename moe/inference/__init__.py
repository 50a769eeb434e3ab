"""Predictions and generated text from a trained model: loading, scoring, streaming, calibration, abstention.

Metrics of predictions are in `moe.evaluation`; large datasets are scored in shards by `moe.inference.bulk`.
"""
