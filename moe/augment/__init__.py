"""Augmentation of training rows by a language model: prompts, clients, filters, response log.

Training on the augmented rows is left to `moe.data` and `moe.training`.
"""
