"""The commands that people type, room by room; `cli.py` hangs them up and catches what they end with."""
