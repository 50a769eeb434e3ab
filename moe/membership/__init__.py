"""Adding, removing and swapping experts of a trained mixture, and listing them.

The edit itself is `moe.merging`'s, the adaptation stage is `moe.training`'s.
"""
