from importlib.metadata import PackageNotFoundError, version

from sb3_dai.dai import DAI
from sb3_dai.policy import CnnPolicy, DAIPolicy, MlpPolicy, MultiInputPolicy
from sb3_dai.policy_recurrent import CnnLstmPolicy, MlpLstmPolicy, MultiInputLstmPolicy, RecurrentPolicy
from sb3_dai.preferences import GaussianPreference, LearnedPreference, Preference, RewardPreference

try:
    __version__ = version("sb3_dai")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = [
    "DAI",
    "CnnLstmPolicy",
    "CnnPolicy",
    "DAIPolicy",
    "GaussianPreference",
    "LearnedPreference",
    "MlpLstmPolicy",
    "MlpPolicy",
    "MultiInputLstmPolicy",
    "MultiInputPolicy",
    "Preference",
    "RecurrentPolicy",
    "RewardPreference",
    "__version__",
]
