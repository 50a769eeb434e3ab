"""A mixture or a single expert on disk: reading, checking and writing its folder.

A run's folder is left to `moe.runs`, training checkpoints to `moe.training`.
"""
