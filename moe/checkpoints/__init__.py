"""A mixture or a single expert on disk: reading, checking and writing its folder.

`moe.runs` holds the folder of a run, `moe.training` the checkpoints of training.
"""
