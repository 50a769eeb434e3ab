"""Metrics on labelled rows: evaluation, baselines, paired comparison, calibration, perplexity.

`moe.qa` evaluates a language model by questions; `moe.report` shows the results.
"""
