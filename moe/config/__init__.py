"""One run as one frozen object: its YAML, its stages as data, its fault messages and the preflight check.

Settings of a part stand beside that part; this room only composes them.
"""
