"""Questions put to a language model's mixture: answers written or chosen by likelihood, read, marked and shown.

What a question is, is `moe.data.asks`'; how a model learns to answer, `moe.instruct`'s.
"""
