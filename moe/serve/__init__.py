"""Answering over HTTP: a queue, one thread that computes, and what is asked and answered at which address.

The answers are `moe.inference.stream`'s and `moe.inference.generator`'s, whatever the way that they were asked for.
"""
