"""A model's graph in onnxruntime: its files, their checks, its weights and its tokenizer, all without torch.

The graph is written in `moe.export`; predictions are made from it in `moe.inference.onnx_predictor`.
"""
