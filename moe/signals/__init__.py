"""Daily signals: from predictions with a ticker and a time to one number per ticker and session, and its evaluation.

Predicting texts is left to `moe.inference`, and trading to nobody here: the results are statistics, not advice.
"""
