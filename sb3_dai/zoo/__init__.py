"""
The commands of RL Zoo with DAI among its algorithms: ``python -m sb3_dai.zoo train --algo dai --env CartPole-v1``.

The Zoo has no hook for foreign algorithms, but its modules share single dictionaries of them. This package enters DAI
in those, mends what the Zoo trips over, and hands over to the Zoo's own command. docs/zoo.md describes the commands.
"""

from sb3_dai.zoo.commands import (
    COMMANDS,
    ActingDAI,
    call_through_here,
    complete_train_options,
    main,
    register,
    register_worlds,
    with_ffmpeg,
)
from sb3_dai.zoo.entries import (
    HYPERPARAMS_MODULE,
    entry_name,
    evaluated,
    hyperparams_file,
    hyperparams_module,
    load_entries,
    other_version,
    read_hyperparams,
)
from sb3_dai.zoo.search import convert_dai_params, sample_dai_params

__all__ = [
    "COMMANDS",
    "HYPERPARAMS_MODULE",
    "ActingDAI",
    "call_through_here",
    "complete_train_options",
    "convert_dai_params",
    "entry_name",
    "evaluated",
    "hyperparams_file",
    "hyperparams_module",
    "load_entries",
    "main",
    "other_version",
    "read_hyperparams",
    "register",
    "register_worlds",
    "sample_dai_params",
    "with_ffmpeg",
]
