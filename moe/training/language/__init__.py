"""Language models: corpora as training sets, pre-training of experts, and the instruction stage.

The loop and the stages of classifiers are in `moe.training`.
"""
