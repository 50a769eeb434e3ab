"""From files to batches: readers, schema, validation, splits, deduplication, collators and samplers.

Generating text is left to `moe.synthetic` and `moe.augment`.
"""
