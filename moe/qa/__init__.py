"""Evaluation of a language model on questions: prompts, answer parsing, scoring.

Classifiers are evaluated in `moe.evaluation`.
"""
