"""The Python API: models, pipelines and trainers with the interfaces of Hugging Face and scikit-learn.

Each call goes through the rooms that the commands use; nothing is computed here that a command cannot do.
"""
