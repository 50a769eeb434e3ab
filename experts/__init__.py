"""What a domain expert is: LoRA settings, N adapters beside one frozen backbone, one expert on disk.

What happens to experts (training, merging, inference) lives in `moe`; how they are blended lives in `router`.
"""
