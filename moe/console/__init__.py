"""Output on a terminal: progress bars and tables that fit narrow windows.

What is shown is decided by the callers.
"""
