"""Tables of a hidden world that are taken from the environment itself."""

from typing import Any

from stable_baselines3.common.vec_env import VecEnv

ATTRIBUTES = {"A": "observation_matrix", "B": "transition_matrix", "D": "initial_distribution"}
"""Where an environment has each of its tables, as those of :mod:`sb3_dai.envs` do."""


def with_tables_of(env: VecEnv | None, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    :param env: the environments, which have the same tables; None while a model is loaded, whose tables are saved with it
    :param policy_kwargs: of a policy, in which A, B and D may be "env" for the environment's own
    :return: the same with these tables, and with their number of hidden states unless it is given
    :raises ValueError: if the environment has no such table, or another text is given
    """
    texts = {name: policy_kwargs[name] for name in ATTRIBUTES if isinstance(policy_kwargs.get(name), str)}
    found: dict[str, Any] = {}
    for name, text in texts.items():
        if text != "env":
            raise ValueError(f'{name}={text!r}: give a table, or "env" for that of the environment')
        assert env is not None
        try:
            (found[name],) = env.get_attr(ATTRIBUTES[name], indices=0)
        except AttributeError as error:
            raise ValueError(
                f'{name}="env": the environment has no {ATTRIBUTES[name]}. Give the table, or leave {name} out to learn it'
            ) from error
    if not found:
        return policy_kwargs
    table = next(iter(found.values()))
    first = table[0] if isinstance(table, list) else table
    return {"n_hidden_states": first.shape[-1 if "A" in found else 0], **policy_kwargs, **found}
