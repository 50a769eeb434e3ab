"""Evaluation of a language model by questions: prompts, answer parsing, scoring.

`moe.evaluation` evaluates classifiers.
"""
