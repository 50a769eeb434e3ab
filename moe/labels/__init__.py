"""Labels of a file: rows that are probably mislabelled, rows to label next, and tasks for Label Studio.

No file that a user labels is changed. The rows that stages train on are in `moe.data`, and teachers in `moe.distill`.
"""
