"""Adding, removing and swapping experts of a trained mixture, and listing them.

Editing the mixture is left to `moe.merging`, the stage that adapts router and heads to `moe.training`.
"""
