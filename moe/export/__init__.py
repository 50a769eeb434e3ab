"""A mixture handed on to other programs: PEFT adapters, folded weights, ONNX, OpenVINO, a folder for the hub.

How a mixture answers here is `moe.inference.predictor`'s; what a command is told is `moe.commands`'s.
"""
