"""Adding, removing and swapping experts of a trained mixture, and listing them.

`moe.merging` edits the mixture, `moe.training` runs the stage that adapts router and heads.
"""
