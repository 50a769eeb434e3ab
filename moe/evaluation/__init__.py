"""Metrics on labelled rows: evaluation, baselines, paired comparison, calibration, perplexity.

Questions to a language model are left to `moe.qa`; how results are shown to `moe.report`.
"""
