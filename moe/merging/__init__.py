"""From expert folders to one mixture: merging, initialization of heads, and edits of an existing mixture.

Whether an expert fits, and adapting router and heads to it, is left to `moe.membership`.
"""
