"""Report of a run: HTML page, model card, and tables for the terminal.

The numbers come from `moe.runs`, the figures from `moe.plots`.
"""
