"""A run's report: HTML page, model card, terminal tables.

Figures come from `moe.runs`, pictures from `moe.plots`.
"""
