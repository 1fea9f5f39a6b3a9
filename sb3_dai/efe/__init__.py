"""
The one-step expected free energy as a sum of terms, each with its weight, discount, terminal rule and critic
aggregation.
"""

from sb3_dai.efe.base import Term, Transition, check_terms
from sb3_dai.efe.epistemic import EpistemicTerm
from sb3_dai.efe.prediction_error import PredictionErrorTerm
from sb3_dai.efe.preference import PreferenceTerm

__all__ = ["EpistemicTerm", "PredictionErrorTerm", "PreferenceTerm", "Term", "Transition", "check_terms"]
