"""Why a text got its label: token attributions, expert contributions, and the words of a corpus.

Predictions themselves are left to `moe.inference`.
"""
