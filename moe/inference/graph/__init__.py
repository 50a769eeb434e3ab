"""A model's graph in onnxruntime: its files, their checks, its weights and the predictor, all without torch.

The graph is written in `moe.export`.
"""
