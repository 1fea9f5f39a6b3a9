from importlib.metadata import PackageNotFoundError, version

from sb3_dai.dai import DAI
from sb3_dai.policies import CnnPolicy, DAIPolicy, MlpPolicy, MultiInputPolicy

try:
    __version__ = version("sb3_dai")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = ["DAI", "CnnPolicy", "DAIPolicy", "MlpPolicy", "MultiInputPolicy", "__version__"]
