"""Sweeps: one run over many settings and seeds, by grid or search, with a table and charts.

Training and evaluation of a single run are in the other packages of `moe`.
"""
