"""How the rows of a file get to train, validation and test: at random, by text or by time, without leaks.

Reading and checking the rows is left to `moe.data`.
"""
