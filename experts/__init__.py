"""What a domain expert is: LoRA settings, the adapters attached to one frozen backbone, and an expert's files.

Training, merging and inference are in `moe`; routing is in `router`.
"""
