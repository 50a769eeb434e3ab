"""Export of a mixture to other formats: PEFT adapters, merged weights, ONNX, OpenVINO, a folder for the Hub.

Inference with the mixture itself is in `moe.inference`.
"""
