"""Metrics on labelled rows: evaluation, baselines, paired comparison, calibration, perplexity.

Question answering by a language model is evaluated in `moe.qa`; the results are presented by `moe.report`.
"""
