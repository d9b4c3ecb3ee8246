"""Evaluation: any two models of one vocabulary, side by side, on held-out text and on tasks that people recognise."""

from attnedit.evaluate.compare import Comparison, evaluate
from attnedit.evaluate.task_scores import TaskComparison, evaluate_tasks

__all__ = ["Comparison", "TaskComparison", "evaluate", "evaluate_tasks"]
