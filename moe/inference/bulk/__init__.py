"""Scoring of large data sets in shards, each written completely or not at all, locally or with Ray.

Each row is predicted exactly as in `moe.inference`.
"""
