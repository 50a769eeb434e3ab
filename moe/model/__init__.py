"""The mixture: frozen backbone, trunk, gated layers and heads, and everything that depends on a backbone family.

Experts are defined in `experts`, gates and losses in `router`; files are left to `moe.checkpoints`.
"""
