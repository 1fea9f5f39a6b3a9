"""
What a world model believes, held against the truth: a known transition matrix, or what was recorded.

docs/diagnostics.md has an example of each.
"""

from sb3_dai.diagnostics.hidden_states import (
    BeliefCalibration,
    belief_calibration,
    equivalent_states,
    filtered_beliefs,
    predictive_log_likelihood,
)
from sb3_dai.diagnostics.log_likelihood import one_step_log_likelihood
from sb3_dai.diagnostics.matrices import (
    argmax_accuracy,
    categorical_divergence,
    coverage,
    predicted_transitions,
    reachable_pairs,
    visit_counts,
)
from sb3_dai.diagnostics.relabelling import (
    HiddenModel,
    dirichlet_divergence,
    match_by_beliefs,
    match_by_models,
    observation_divergence,
    relabelled,
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
    "BeliefCalibration",
    "Calibration",
    "HiddenModel",
    "PredictionErrors",
    "argmax_accuracy",
    "belief_calibration",
    "calibration",
    "categorical_divergence",
    "coverage",
    "dirichlet_divergence",
    "equivalent_states",
    "filtered_beliefs",
    "k_step_error",
    "match_by_beliefs",
    "match_by_models",
    "mixture_calibration",
    "observation_divergence",
    "one_step_error",
    "one_step_log_likelihood",
    "predicted_transitions",
    "prediction_errors",
    "predictive_log_likelihood",
    "reachable_pairs",
    "record",
    "relabelled",
    "visit_counts",
]
