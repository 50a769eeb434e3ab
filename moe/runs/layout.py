"""Names of the files and folders in a run's folder, each written here once."""

from experts.cards import EXPERTS as EXPERTS
from moe.config.stages import INSTRUCT, JOINT, MERGED, WARMUP

RESULT, SUMMARY, LEVELS = "result.json", "summary.json", "levels.json"
METRICS, QUESTIONS, PER_EXPERT = "metrics.json", "questions.json", "alone.csv"
"""Files in the folder of an evaluation."""
MIXTURES = (MERGED, WARMUP.folder, JOINT.folder)
"""Mixtures of a run, of which `RESULT` names the best, in the order of training."""
INSTRUCTED = INSTRUCT.folder
POOLED = "pooled"
"""Name of the pooled LoRA, of its folder and of its logs."""
CHECKPOINTS, LOGS, CACHE = "checkpoints", "logs", "cache"
"""Checkpoints of steps under way, logs of steps, and states of the trunk."""
DATA, SAMPLE, DISTILLED = "data", "sample", "distilled"
"""Prepared rows, the synthetic sample, and texts with the answers of teachers."""
EVALUATION, EVALUATION_DATA = "evaluation", ".data"
REPORT, EXPORT = "report", "export"
ABLATION, ABLATION_RESULT, ABLATION_CHART = "ablation", "ablation.json", "ablation.png"
