"""What differs between kinds of tasks: label cells, losses, probabilities, decisions and metrics, a class per kind.

Every other room handles all tasks alike, and asks the kind of a task through `registry.task_kind`.
"""
