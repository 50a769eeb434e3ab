"""Request and response forms that clients of other servers already use, and models that are loaded at run time.

The engines of `moe.serve` compute the answers; forms of FinMoE's own are in `moe.serve.app` and its routes.
"""
