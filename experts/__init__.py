"""Domain experts: LoRA settings, adapters on a frozen backbone, and expert folders.

Training, merging and inference are in `moe`; routing is in `router`.
"""
