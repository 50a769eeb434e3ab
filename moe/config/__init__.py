"""Settings of a run: one frozen object, read from YAML and checked with all errors reported at once.

The settings of a part are declared next to that part; this package composes them.
"""
