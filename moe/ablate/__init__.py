"""What each part of a mixture is worth: the same test rows answered, or the mixture trained, without it.

How a mixture is trained and judged is left to the rest of `moe`.
"""
