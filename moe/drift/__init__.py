"""Drift: reference statistics of a model's validation texts, and how far newer texts differ from them.

Retraining is left to the user.
"""
