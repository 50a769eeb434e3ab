"""From expert folders to one mixture: merging, initialization of heads, and edits of an existing mixture.

`moe.membership` checks whether an expert may be added and adapts the router and the heads.
"""
