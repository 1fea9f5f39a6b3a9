"""Callbacks and logs."""

import csv
import warnings

import gymnasium as gym
import numpy as np
import pytest
from helpers import action_spaces, make, spy
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from worlds import BOX, CounterEnv, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.learning.step import EagerStep

TERMS = (
    *("loss", "transition_loss", "value_loss", "policy_loss", "vfe", "prediction_error", "information_gain"),
    *("extrinsic_value", "epistemic_value", "entropy", "precision", "target_entropy", "n_updates", "learning_rate"),
    "epistemic_weight",
)


def test_eval_and_checkpoint_callbacks(tmp_path):
    evaluation = EvalCallback(
        make_vec_env("CartPole-v1"),
        n_eval_episodes=2,
        eval_freq=60,
        log_path=tmp_path,
        best_model_save_path=tmp_path,
        verbose=0,
        warn=False,
    )
    checkpoint = CheckpointCallback(50, tmp_path, save_replay_buffer=True)
    model = make(seed=0).learn(120, callback=[evaluation, EveryNTimesteps(50, checkpoint)])
    results = np.load(tmp_path / "evaluations.npz")
    assert results["timesteps"].tolist() == [60, 120]
    assert results["results"].shape == (2, 2)
    assert DAI.load(tmp_path / "best_model", device="cpu").num_timesteps in (60, 120)
    assert model.num_timesteps == 120


def test_checkpoints_are_models(tmp_path):
    make(seed=0).learn(120, callback=CheckpointCallback(50, tmp_path, save_replay_buffer=True))
    for step in (50, 100):
        loaded = DAI.load(tmp_path / f"rl_model_{step}_steps", env=gym.make("CartPole-v1"), device="cpu")
        loaded.load_replay_buffer(tmp_path / f"rl_model_replay_buffer_{step}_steps")
        # The callback comes before the step is stored
        assert loaded.replay_buffer.pos == step - 1
        assert loaded.num_timesteps == step


class Counting(BaseCallback):
    """Counts each kind of call."""

    def __init__(self):
        super().__init__()
        self.calls = dict.fromkeys(("training_start", "rollout_start", "step", "rollout_end", "training_end"), 0)

    def _on_training_start(self):
        self.calls["training_start"] += 1

    def _on_rollout_start(self):
        self.calls["rollout_start"] += 1

    def _on_step(self):
        self.calls["step"] += 1
        return True

    def _on_rollout_end(self):
        self.calls["rollout_end"] += 1

    def _on_training_end(self):
        self.calls["training_end"] += 1


@pytest.mark.parametrize(
    "wrap", [lambda one: one, lambda one: [one], lambda one: CallbackList([one])], ids=["one", "list", "callback-list"]
)
def test_callbacks_are_called(wrap):
    make(CounterEnv(), train_freq=4).learn(80, callback=wrap(one := Counting()))
    assert one.calls == dict(training_start=1, rollout_start=20, step=80, rollout_end=20, training_end=1)


@pytest.mark.parametrize(
    ("make_callback", "stopped"),
    [
        (lambda: StopTrainingOnMaxEpisodes(6), 60),
        (lambda: lambda locals_, globals_: locals_["self"].num_timesteps < 65, 65),
        (lambda: lambda locals_, globals_: True, 100),
        (
            lambda: EvalCallback(
                make_vec_env(CounterEnv),
                StopTrainingOnRewardThreshold(50),
                eval_freq=55,
                n_eval_episodes=1,
                verbose=0,
                warn=False,
            ),
            55,
        ),
    ],
    ids=["episodes", "function", "function that goes on", "threshold"],
)
def test_callbacks_stop_training(make_callback, stopped):
    assert make(CounterEnv(), seed=0).learn(100, callback=make_callback()).num_timesteps == stopped


def test_progress_bar(capfd):
    pytest.importorskip("tqdm.rich")
    model = make(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm calls its bar experimental
        assert model.learn(60, progress_bar=True).num_timesteps == 60
    captured = capfd.readouterr()
    assert "60/60" in captured.out + captured.err


def test_custom_logger_gets_every_term(tmp_path):
    model = make(seed=0, tensorboard_log=str(tmp_path / "unused"))
    model.set_logger(configure(str(tmp_path / "own"), ["csv"]))
    model.learn(200, log_interval=1)
    model.logger.close()
    assert not (tmp_path / "unused").exists()
    with open(tmp_path / "own" / "progress.csv", newline="") as file:
        *_, last = rows = list(csv.DictReader(file))
    assert [float(row["time/episodes"]) for row in rows] == [*range(1, len(rows) + 1)], "log_interval counts episodes"
    values = {name: float(last[f"train/{name}"]) for name in TERMS}
    assert all(map(np.isfinite, values.values()))
    assert 50 < float(last["time/total_timesteps"]) - values["n_updates"] <= 51
    assert values["learning_rate"] == 1e-3
    assert values["precision"] > 0
    assert values["prediction_error"] > 0
    assert values["information_gain"] > 0
    assert values["vfe"] >= values["prediction_error"]
    assert 0 < values["entropy"] <= np.log(2) + 1e-6
    assert 0.2 * np.log(2) <= values["target_entropy"] <= 0.7 * np.log(2)
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/episodes", "time/fps"} <= last.keys()
    parts = [values[f"{name}_loss"] for name in ("transition", "value", "policy")] + [float(last["train/precision_loss"])]
    assert values["loss"] == pytest.approx(sum(parts), rel=1e-4)


def test_logged_terms_are_means_over_the_gradient_steps(monkeypatch):
    model = make(CounterEnv(), gradient_steps=4, train_freq=4, seed=0)
    calls = spy(monkeypatch, EagerStep, "__call__")
    model.learn(60, log_interval=1000)
    values = model.logger.name_to_value
    assert values["train/n_updates"] == model._n_updates == 12
    assert values["train/loss"] == pytest.approx(np.mean([metrics.values[0].item() for _, metrics in calls[-4:]]), rel=1e-5)


@action_spaces()
def test_every_kind_of_actions_logs_every_term(tmp_path, action_space):
    model = make(Monitor(SampledEnv(action_space=action_space)), seed=0)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(80, log_interval=1)
    model.logger.close()
    with open(tmp_path / "progress.csv", newline="") as file:
        *_, last = csv.DictReader(file)
    values = {name: float(last[f"train/{name}"]) for name in (*TERMS, "precision_loss")}
    assert all(map(np.isfinite, values.values()))
    assert values["prediction_error"] > 0 and values["information_gain"] > 0 and values["precision"] > 0
    parts = [values[f"{name}_loss"] for name in ("transition", "value", "policy", "precision")]
    assert values["loss"] == pytest.approx(sum(parts), rel=1e-4, abs=1e-5)
    # That of the uniform distribution; in units of the bounds it is 2 log 2 for the box. Samples scatter about the entropy.
    limit = 2 * np.log(2) + 0.5 if action_space == BOX else model.policy.action_model.max_entropy + 1e-6
    assert values["entropy"] <= limit


def test_tensorboard_folders(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = make(seed=0, tensorboard_log=str(tmp_path))
    model.learn(120, log_interval=1)
    model.learn(60, log_interval=1, reset_num_timesteps=False)
    assert [path.name for path in tmp_path.iterdir()] == ["DAI_1"]
    model.learn(60)
    model.learn(60, tb_log_name="named")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DAI_1", "DAI_2", "named_1"]
    events = accumulators.EventAccumulator(str(tmp_path / "DAI_1"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"train/{name}" for name in TERMS} - tags == {"train/n_updates"}, (
        "which the time axis of TensorBoard shows already"
    )
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == sorted(steps)
    assert steps[-1] > 120, "the second call of learn continued the curve"
