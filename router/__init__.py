"""How experts are blended and how losses are balanced: gates, routing losses, DAO, usage.

It knows nothing of experts or backbones: gates travel as one plain tensor (B, E).
"""
