"""Evaluation of a language model by questions: prompts, answer parsing, scoring.

Classification is left to `moe.evaluation`.
"""
