"""What the agent prefers: prior preferences over outcomes, and the habit prior over actions."""

from sb3_dai.preferences.base import Outcome, OutcomePreference, Preference, PreferenceContext, RewardPreference
from sb3_dai.preferences.gaussian import GaussianPreference
from sb3_dai.preferences.learned import LearnedPreference

__all__ = [
    "GaussianPreference",
    "LearnedPreference",
    "Outcome",
    "OutcomePreference",
    "Preference",
    "PreferenceContext",
    "RewardPreference",
]
