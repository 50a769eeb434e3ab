"""A run's folder: where its files lie, its logs, its figures and its best model.

Training writes into it; reports and commands read from it.
"""
