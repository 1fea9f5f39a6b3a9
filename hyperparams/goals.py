"""
Agents that want something else than the environment's reward, or are used to something before they weigh it:
``python -m sb3_dai.zoo train --algo dai --env MountainCar-v0 --conf-file goals``.
"""

from sb3_dai import GaussianPreference, LearnedPreference

hyperparams = {
    # The flag is at 0.5. The reward of -1 a step is not read
    "MountainCar-v0": dict(
        n_timesteps=1e4,
        policy="MlpPolicy",
        preference=GaussianPreference(goal=0.5, std=0.1, dims=[0]),
        preference_weight=0.1,
    ),
    # Upright and slow, which is the cosine of the angle and its velocity; noise beside the policy's own
    "Pendulum-v1": dict(
        n_timesteps=1e4,
        policy="MlpPolicy",
        preference=GaussianPreference(goal=[1.0, 0.0], std=[0.5, 2.0], dims=[0, 2]),
        noise_type="normal",
        noise_std=0.1,
    ),
    # What the observations of the better half of its episodes have in common
    "Acrobot-v1": dict(n_timesteps=1e4, policy="MlpPolicy", preference=LearnedPreference()),
    # Used to moving, and twice as decided as its policy; members of the ensemble have seen different halves of each batch
    "sb3_dai/GridWorld-v0": dict(
        n_timesteps=5e3,
        policy="MlpPolicy",
        env_kwargs=dict(goal=(6, 6), stay=True),
        precision=5.0,
        habit_prior=[0.24, 0.24, 0.24, 0.24, 0.04],
        action_precision=2.0,
        policy_kwargs=dict(bootstrap_share=0.5),
    ),
}
