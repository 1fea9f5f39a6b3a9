"""Files of hyperparameters, and which entry an environment gets."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from zoo_runs import ENV_ID, Run, saved

from sb3_dai import DAI, GaussianPreference, RewardPreference, zoo


@pytest.mark.parametrize("name", ["himst", "seed", "sb3_dai.hyperparams.seed"])
def test_bare_name_of_a_packaged_file(run: Run, tmp_path: Path, name: str) -> None:
    run("train", "--algo", "dai", "--env", ENV_ID, "-n", "20", "--eval-freq", "-1", "-f", str(tmp_path), "-conf", name)
    bare = name.rpartition(".")[2]
    assert saved(tmp_path, "args.yml")["conf_file"] == f"sb3_dai.hyperparams.{bare}"
    source = yaml.safe_load(zoo.hyperparams_file(bare).read_text())
    assert saved(tmp_path, "config.yml") == source[ENV_ID]


def test_options_of_the_user_stay() -> None:
    assert zoo.complete_train_options(["--algo", "ppo"]) == ["--algo", "ppo"]
    options = ["--algo=dai", "--num-threads", "2", "--conf-file", "mine.yml", "-params", "tau:1.0"]
    assert zoo.complete_train_options(options) == options


@pytest.mark.parametrize("text", ["0.3", "auto", "LinearSchedule(0.7, 0.2, 0.5)", "ConstantSchedule(0.1)"])
def test_target_entropy_is_an_expression(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({ENV_ID: {"target_entropy": text}, "other": {"gamma": 0.5}}))
    entries = zoo.read_hyperparams(tmp_path / "mine.yml")
    assert entries["other"] == {"gamma": 0.5}
    found = entries[ENV_ID]["target_entropy"]
    schedules = {"LinearSchedule(0.7, 0.2, 0.5)": [0.7, 0.2], "ConstantSchedule(0.1)": [0.1, 0.1]}
    if text in schedules:
        assert [found(progress) for progress in (1.0, 0.25)] == pytest.approx(schedules[text])
    else:
        assert found == ("auto" if text == "auto" else 0.3)


@pytest.mark.parametrize("env_id", ["sb3_dai/DeepSea10-v0", "Acrobot-v1"])
def test_packaged_schedules_reach_the_agent(run: Run, tmp_path: Path, env_id: str) -> None:
    conf = "goals" if env_id == "Acrobot-v1" else "dai"
    run("train", "--algo", "dai", "--env", env_id, "-n", "20", "--eval-freq", "-1", "-f", str(tmp_path), "-conf", conf)
    trained = DAI.load(next(tmp_path.glob("dai/**/*.zip")))
    share, n_actions = {"dai": ((0.3, 0.02), 2), "goals": ((0.7, 0.3), 3)}[conf]
    ends = [trained.target_entropy(progress) / np.log(n_actions) for progress in (1.0, 0.0)]
    assert ends == pytest.approx(share, rel=2e-3)


@pytest.mark.parametrize("env_id", list(zoo.read_hyperparams(zoo.hyperparams_file("goals"))))
def test_goals_are_objects(run: Run, tmp_path: Path, env_id: str) -> None:
    run("train", "--algo", "dai", "--env", env_id, "-n", "110", "--eval-freq", "-1", "-f", str(tmp_path), "-conf", "goals")
    trained = DAI.load(next(tmp_path.glob("dai/**/*.zip")))
    entry = zoo.read_hyperparams(zoo.hyperparams_file("goals"))[env_id]
    assert type(trained.preference) is type(entry.get("preference", RewardPreference()))
    assert trained.policy.bootstrap_share == entry.get("policy_kwargs", {}).get("bootstrap_share", 1.0)
    assert (trained.action_noise is not None) == ("noise_type" in entry)


def test_a_file_of_the_users_is_evaluated(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a packaged file, under a path that Python would take for a relative module."""
    (tmp_path / "mine.yml").write_text(zoo.hyperparams_file("goals").read_text())
    (folder := tmp_path / "folder").mkdir()
    monkeypatch.chdir(folder)
    run("train", "--algo", "dai", "--env", "Pendulum-v1", "-n", "20", "--eval-freq", "-1", "-f", ".", "-conf", "../mine.yml")
    trained = DAI.load(next(folder.glob("dai/**/*.zip")))
    assert type(trained.preference) is GaussianPreference


def test_a_python_file_of_the_users(run: Run, tmp_path: Path) -> None:
    entry = 'dict(n_timesteps=20, policy="MlpPolicy", pessimism="ConstantSchedule(0.25)")'
    (tmp_path / "mine.py").write_text(f'hyperparams = {{"{ENV_ID}": {entry}}}')
    run(
        "train", "--algo", "dai", "--env", ENV_ID, "--eval-freq", "-1", "-f", str(tmp_path), "-conf", str(tmp_path / "mine.py")
    )
    assert DAI.load(next(tmp_path.glob("dai/**/*.zip"))).pessimism(0.5) == 0.25


def test_a_missing_file_lists_the_packaged_ones(run: Run) -> None:
    with pytest.raises(ValueError, match=r"--conf-file nope.*dai, goals, himst, seed"):
        run("train", "--algo", "dai", "--env", ENV_ID, "-conf", "nope")


def test_a_module_without_hyperparameters(run: Run) -> None:
    with pytest.raises(ValueError, match=r"--conf-file json: AttributeError.*holds `hyperparams`"):
        run("train", "--algo", "dai", "--env", ENV_ID, "-conf", "json")


def test_an_expression_that_fails_is_named() -> None:
    with pytest.raises(ValueError, match=r"preference='NoPreference\(\)'.*NameError.*GaussianPreference"):
        zoo.evaluated({"preference": "NoPreference()"})


@pytest.mark.parametrize(
    ("env_id", "family", "name"),
    [
        ("Hopper-v5", None, "Hopper-v5"),
        ("Hopper-v4", None, "Hopper-v5"),
        ("BreakoutNoFrameskip-v4", "atari", "atari"),
        ("MiniGrid-FourRooms-v0", "minigrid", "default"),
        ("Walker2d-v5", None, "default"),
        ("NoVersion", None, "default"),
    ],
)
def test_which_entry(env_id: str, family: str | None, name: str) -> None:
    assert zoo.entry_name(env_id, {"Hopper-v5": {}, "default": {}, "atari": {}}, family) == name


def test_no_entry_at_all() -> None:
    with pytest.raises(ValueError, match=r"--env Hopper-v5.*has: CartPole-v1"):
        zoo.entry_name("Hopper-v5", {"CartPole-v1": {}})


def test_another_version_gets_the_entry(run: Run, tmp_path: Path) -> None:
    run("train", "--algo", "dai", "--env", "CartPole-v0", "-n", "20", "--eval-freq", "-1", "-f", str(tmp_path))
    assert DAI.load(next(tmp_path.glob("dai/**/*.zip"))).batch_size == 256


FAMILIES = ("atari", "minigrid", "default")
PACKAGED = [name for name in zoo.load_entries(str(zoo.hyperparams_file("dai"))) if name not in FAMILIES]


@pytest.mark.parametrize("env_id", [name for name in PACKAGED if "Bullet" not in name])
def test_packaged_ids_are_registered(env_id: str) -> None:
    import rl_zoo3.import_envs  # noqa: F401

    try:
        zoo.register_worlds(env_id)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert env_id in gym.registry


def test_worlds_of_the_package_have_entries() -> None:
    import sb3_dai.envs  # noqa: F401

    assert {name for name in gym.registry if name.startswith("sb3_dai/")} <= set(PACKAGED)


def test_packaged_entries_have_a_budget_and_a_policy() -> None:
    entries = zoo.read_hyperparams(zoo.hyperparams_file("dai"))
    assert {name for name, entry in entries.items() if not {"n_timesteps", "policy"} <= set(entry)} == set()
    # The default has to fit an afternoon on a laptop: at most 20 ms a step
    assert entries["default"]["n_timesteps"] * 0.02 < 15 * 60


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [*PACKAGED, "BreakoutNoFrameskip-v4", "MiniGrid-FourRooms-v0", "Hopper-v4"])
def test_packaged_entries_train(run: Run, tmp_path: Path, env_id: str) -> None:
    needs = {"Bullet": "pybullet_envs_gymnasium", "MinAtar": "minatar", "MiniGrid": "minigrid", "NoFrameskip": "cv2"}
    for name, package in needs.items():
        if name in env_id:
            pytest.importorskip(package)
    small = ["learning_starts:20", "buffer_size:200"]
    run("train", "--algo", "dai", "--env", env_id, "-n", "50", "--eval-freq", "-1", "-f", str(tmp_path), "-params", *small)
    trained = DAI.load(next(tmp_path.glob("dai/**/*.zip")), buffer_size=1)
    assert trained._n_updates > 0
