"""Evaluation: any two models of one vocabulary, side by side, on held-out text."""

from attnedit.evaluate.compare import Comparison, evaluate

__all__ = ["Comparison", "evaluate"]
