"""Errors that name the argument, the value it got and the remedy."""

from sb3_dai.checks.arguments import MIN_PRECISION, check_arguments, check_net_arch, check_policy_arguments
from sb3_dai.checks.data import check_cost, check_finite, check_log_prob, check_losses
from sb3_dai.checks.spaces import SUPPORTED_ACTIONS, SUPPORTED_OBSERVATIONS, check_spaces
from sb3_dai.checks.values import check_choice, check_number, check_schedule, value_at

__all__ = [
    "MIN_PRECISION",
    "SUPPORTED_ACTIONS",
    "SUPPORTED_OBSERVATIONS",
    "check_arguments",
    "check_choice",
    "check_cost",
    "check_finite",
    "check_log_prob",
    "check_losses",
    "check_net_arch",
    "check_number",
    "check_policy_arguments",
    "check_schedule",
    "check_spaces",
    "value_at",
]
