"""Scoring of large datasets in shards, locally or with Ray; each shard is written completely or not at all.

Each row is predicted exactly as in `moe.inference`.
"""
