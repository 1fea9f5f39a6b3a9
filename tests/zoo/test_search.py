"""`train --optimize` and `--trial-id`."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import optuna
import pytest
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from zoo_runs import ENV_ID, Run, saved

from sb3_dai import DAI, zoo
from sb3_dai.zoo.search import log_options

SPACES = {
    "CartPole-v1": (math.log(2), 0.02, 0.6),
    "Pendulum-v1": (1.0, -2.0, -0.25),
}
"""What a target of the entropy is a multiple of, its lowest and its highest multiple."""


@pytest.mark.parametrize("env_id", SPACES)
def test_every_sampled_trial_builds_a_model(env_id: str) -> None:
    zoo.register()
    additional_args: dict[str, Any] = {"using_her_replay_buffer": False, "her_kwargs": {}}
    space = gym.make(env_id).action_space
    n_actions = space.shape[0] if isinstance(space, gym.spaces.Box) else 0
    seen = []

    def objective(trial: optuna.Trial) -> float:
        seen.append(zoo.sample_dai_params(trial, n_actions, 1, additional_args, space))
        return 0.0

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=12)
    assert {sampled["precision"] == "auto" for sampled in seen} == {True, False}
    assert {str(sampled["pessimism"]) for sampled in seen} >= {"1.0", "LinearSchedule(start=0.0, end=1.0, end_fraction=1.0)"}
    unit, low, high = SPACES[env_id]
    for trial, sampled in zip(study.trials, seen, strict=True):
        again = zoo.evaluated(HYPERPARAMS_CONVERTER["dai"](trial.params))
        assert {name: str(value) for name, value in again.items()} == {name: str(value) for name, value in sampled.items()}
        model = DAI("MlpPolicy", env_id, buffer_size=10, **sampled)
        assert [*model.policy.net_arch.values()] == [sampled["policy_kwargs"]["net_arch"]] * 3
        assert model.batch_size == 2 ** trial.params["batch_size_pow"]
        target = model.target_entropy
        assert low * unit <= (target(0.0) if callable(target) else target) <= high * unit
        assert not callable(target) or target(1.0) == pytest.approx(0.7 * unit)


@pytest.mark.parametrize(
    ("space", "entropy"),
    [
        (gym.spaces.Discrete(4), math.log(4)),
        (gym.spaces.MultiDiscrete([2, 3]), math.log(6)),
        (gym.spaces.MultiBinary(3), math.log(8)),
    ],
)
def test_entropy_of_the_uniform_policy(space: gym.Space, entropy: float) -> None:
    assert log_options(space) == pytest.approx(entropy)


def test_search_then_train_its_trial(run: Run, tmp_path: Path) -> None:
    study = ["--storage", str(tmp_path / "study.log"), "--study-name", "s", "--algo", "dai", "--env", ENV_ID]
    options = ["-n", "120", "--seed", "1", "-f", str(tmp_path), "--eval-episodes", "1"]
    run("train", *study, *options, "-optimize", "--n-trials", "2", "--n-evaluations", "1", "--no-optim-plots")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))
    trials = optuna.load_study(study_name="s", storage=storage).trials
    for number, trial in enumerate(trials):
        run("train", *study, *options, "--trial-id", str(number))
        config = saved(tmp_path, "config.yml", run_id=2 + number)  # the search itself was the first
        assert {"batch_size", "gamma", "policy_kwargs", "n_timesteps", "pessimism"} <= set(config)
        assert not {"batch_size_pow", "one_minus_gamma", "auto_precision", "first_entropy"} & set(config)
        assert config["learning_rate"] == trial.params["learning_rate"]
        assert config["target_entropy"].startswith(f"LinearSchedule({trial.params['first_entropy']}, ")


def test_a_search_survives_what_does_not_go_with_the_entry(run: Run, tmp_path: Path) -> None:
    """An automatic precision, which half of the trials draw, and a habit prior."""
    study = ["--storage", str(tmp_path / "study.log"), "--study-name", "s", "--algo", "dai", "--env", "sb3_dai/GridWorld-v0"]
    options = ["-n", "110", "--seed", "1", "-f", str(tmp_path), "--eval-episodes", "1", "-conf", "goals", "--no-optim-plots"]
    run("train", *study, *options, "-optimize", "--n-trials", "6", "--n-evaluations", "1")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))
    states = [trial.state.name for trial in optuna.load_study(study_name="s", storage=storage).trials]
    assert set(states) == {"PRUNED", "COMPLETE"}


def test_a_search_ends_with_the_error_of_an_entry_that_makes_no_agent(run: Run, tmp_path: Path) -> None:
    """Else all trials would be pruned, and the error of the user's would be a line among many."""
    options = ["--algo", "dai", "--env", ENV_ID, "-n", "110", "-f", str(tmp_path), "--no-optim-plots"]
    with pytest.raises(ValueError, match=r"max_grad_norm.*=-1"):
        run("train", *options, "-optimize", "--n-trials", "2", "-params", "max_grad_norm:-1")


def test_a_policy_that_cannot_read_the_observations_ends_the_search(run: Run, tmp_path: Path) -> None:
    options = ["--algo", "dai", "--env", ENV_ID, "-n", "110", "-f", str(tmp_path), "--no-optim-plots"]
    with pytest.raises(AssertionError, match="NatureCNN"):
        run("train", *options, "-optimize", "--n-trials", "2", "-params", "policy:'CnnPolicy'")


@pytest.mark.parametrize(("algo", "is_ours"), [("dai", True), ("ppo", False)])
def test_trials_of_other_algorithms_are_left_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, algo: str, is_ours: bool
) -> None:
    import rl_zoo3.train

    seen = []
    monkeypatch.setattr(rl_zoo3.train, "train", lambda: seen.append(rl_zoo3.train.ExperimentManager))
    run("train", "--algo", algo, "--env", ENV_ID)
    assert (seen != [ExperimentManager]) == is_ours


def test_what_exact_beliefs_need_is_not_drawn(run, tmp_path):
    options = ["--algo", "dai", "--env", "sb3_dai/TMaze-v0", "-n", "60", "-f", str(tmp_path)]
    with pytest.raises(ValueError, match=r"--optimize: .*HiddenStatesPolicy"):
        run("train", *options, "-optimize", "--n-trials", "1")
