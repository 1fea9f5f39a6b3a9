"""What the C++ step reads: structures.h has the same fields in the same order."""

import ctypes
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

INT, FLOAT, DOUBLE, PLACE = ctypes.c_int64, ctypes.c_float, ctypes.c_double, ctypes.c_void_p


class Source(IntEnum):
    """Where the one-step cost of a head comes from."""

    COST, NOVELTY, ERROR = range(3)


class WorldModel(IntEnum):
    """Distribution of what the world model predicts; of a given one Python computes all."""

    GAUSSIAN, CATEGORICAL, GIVEN = range(3)


class Novelty(IntEnum):
    """What the epistemic value is about."""

    INFORMATION_GAIN, VARIANCE = range(2)


class Group(IntEnum):
    """What learns together. The dual parameter is not clipped, and what is frozen is followed alone."""

    VALUES, POLICY, TRANSITION, DUAL, FROZEN = range(5)


class Outcome(IntEnum):
    """What ``gradients`` returns."""

    DONE, NO_SUCH_ACTION, NO_SUCH_STATE, NOT_FINITE = range(4)


TERMS = (
    *("loss", "transition_loss", "reward_loss", "value_loss", "policy_loss", "precision_loss", "precision"),
    *("prediction_error", "information_gain", "entropy", "vfe"),
)
"""What is logged, before the values and the weights of the heads."""


def fields(text: str) -> Iterator[tuple[str, Any]]:
    """
    :param text: lines of a type and names
    :return: fields of a structure
    """
    kinds: dict[str, Any] = {"INT": INT, "FLOAT": FLOAT, "DOUBLE": DOUBLE, "PLACE": PLACE}
    kinds |= {kind.__name__: kind for kind in ctypes.Structure.__subclasses__() if kind.__module__ == __name__}
    for line in text.strip().splitlines():
        kind, *names = line.split()
        yield from ((name, kinds[kind]) for name in names)


class Net(ctypes.Structure):
    """An ensemble of perceptrons."""

    _fields_ = tuple(
        fields("""
        INT n_members n_layers numbered
        PLACE sizes layers gradients
    """)
    )


class Norm(ctypes.Structure):
    """RunningNorm."""

    _fields_ = tuple(
        fields("""
        PLACE mean var n_batches
        FLOAT horizon clip eps bound
    """)
    )


class Mean(ctypes.Structure):
    """RunningMean."""

    _fields_ = tuple(
        fields("""
        PLACE mean n_batches
        FLOAT horizon
    """)
    )


class Head(ctypes.Structure):
    """A term of G."""

    _fields_ = tuple(
        fields("""
        FLOAT weight discount sign
        INT continues averages of_returns reads_prediction source
        PLACE cost
        Mean running_mean
    """)
    )


class Lstm(ctypes.Structure):
    """Weights of an LSTM."""

    _fields_ = tuple(fields("PLACE of_inputs of_hidden bias other_bias"))


class Filter(ctypes.Structure):
    """A belief filter, and its sequences."""

    _fields_ = tuple(
        fields("""
        Lstm online target gradients
        Net reward
        Norm reward_norm
        INT hidden_size n_rows n_windows
        PLACE raw raw_target codes memory rewards lengths rows
    """)
    )


class Update(ctypes.Structure):
    """All that losses and gradients depend on."""

    _fields_ = tuple(
        fields("""
        Net transition transition_prior policy value value_target
        Norm features_norm change_norm
        Filter filter
        Mean gain_mean
        PLACE gain_peak heads log_precision of_log_precision options
        INT n_heads batch n_features n_inputs n_actions n_choices n_options world_model novelty
        INT normalizes precision_learns transitions_learn policy_learns
        FLOAT bootstrap_entropy pessimism target_entropy prior_scale
        FLOAT layer_norm_eps resolution min_log_var max_log_var min_log_std max_log_std never transition_loss
        PLACE raw raw_target next_raw last_raw states next_states last_states
        PLACE inputs next_inputs next_for_policy outcome of_raw
        PLACE choices actions next_noise noise
        PLACE has_successor ends last_ends discounts bootstrap_weights log_prior error gain known known_next
        PLACE terms places
    """)
    )


class Tensor(ctypes.Structure):
    """A parameter, what Adam keeps of it, and what follows it."""

    _fields_ = tuple(
        fields("""
        PLACE parameter gradient exp_avg exp_avg_sq step target average
        INT size group rate
    """)
    )


class Optimize(ctypes.Structure):
    """Clipping, Adam, and what follows."""

    _fields_ = (
        ("tensors", PLACE),
        ("n_tensors", INT),
        ("learns", INT * len(Group)),
        *fields("""
            PLACE learning_rates
            DOUBLE beta1 beta2 eps
            FLOAT max_norm norm_eps tau averaging_rate
        """),
    )


ALL = Net, Norm, Mean, Head, Lstm, Filter, Update, Tensor, Optimize
"""In the order in which the library tells their sizes."""
