"""
What a world model believes, held against the truth: a known transition matrix, or what was recorded.

docs/diagnostics.md has an example of each.
"""

from sb3_dai.diagnostics.matrices import (
    argmax_accuracy,
    categorical_divergence,
    coverage,
    predicted_transitions,
    reachable_pairs,
    visit_counts,
)
from sb3_dai.diagnostics.vectors import (
    Calibration,
    PredictionErrors,
    calibration,
    k_step_error,
    mixture_calibration,
    one_step_error,
    prediction_errors,
    record,
)

__all__ = [
    "Calibration",
    "PredictionErrors",
    "argmax_accuracy",
    "calibration",
    "categorical_divergence",
    "coverage",
    "k_step_error",
    "mixture_calibration",
    "one_step_error",
    "predicted_transitions",
    "prediction_errors",
    "reachable_pairs",
    "record",
    "visit_counts",
]
