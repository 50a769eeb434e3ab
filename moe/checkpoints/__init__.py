"""A mixture or a single expert on disk: reading, checking and writing its folder.

The folder of a run is left to `moe.runs`, the checkpoints of training to `moe.training`.
"""
