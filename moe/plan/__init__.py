"""What a run will cost in time and memory, measured in dry runs of its stages, and what would make it shorter.

The dry runs themselves are part of `moe.runs` and `moe.training`.
"""
