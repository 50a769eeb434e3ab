"""Files of labelled text: read, checked, split without leaks, prepared on disk, inspected, written.

Turning rows into tokens and batches is left to the rest of `moe`; what a label means to a head, to `experts.domain`.
"""
