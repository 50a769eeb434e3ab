"""From expert folders to one mixture: merging, head initialisation, and edits of an existing mixture.

Adapting a mixture to a new member is left to `moe.membership`.
"""
