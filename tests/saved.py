"""Models to save, and a comparison of what comes back."""

import torch as th

from sb3_dai.dai import DAI


def make_model(env="CartPole-v1", policy="MlpPolicy", **kwargs):
    return DAI(
        policy,
        env,
        policy_kwargs=dict(net_arch=[16]),
        buffer_size=1000,
        learning_starts=50,
        precision="auto",
        gradient_steps=1,
        batch_size=32,
        seed=0,
        device="cpu",
        **kwargs,
    )


def write_files(model, folder):
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    model.policy.save(folder / "policy.pt")
    return folder


def assert_same(left, right):
    """Compare nested states bit by bit."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, th.Tensor):
        assert th.equal(left, right)
    else:
        assert left == right
