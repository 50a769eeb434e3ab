"""Predictions and generated text from a trained model: loading, scoring, streaming, calibration, abstention.

`moe.evaluation` measures them; `moe.inference.bulk` scores large data sets in shards.
"""
