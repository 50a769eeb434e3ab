"""Names of the columns of training rows that hold a teacher's answer."""

TEACHER = "teacher"
"""Its probabilities of the task's labels (K,); null without an answer."""
TEACHER_SCORE = "teacher_score"
"""Its polarity, -1 to 1; null without one."""
