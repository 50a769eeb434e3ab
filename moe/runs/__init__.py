"""A run's folder: paths of its files, logs, evaluation results and its best model.

Training writes into it; reports and commands read from it.
"""
