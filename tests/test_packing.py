import copy
import pickle
import shutil

import numpy as np
import pytest
import torch as th
from helpers import BatchNormDropout, assert_same, make
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.optimizer import register_optimizer_step_pre_hook
from worlds import BOX, VECTOR, SampledEnv

from sb3_dai.compilation import CompiledUpdate, leaves
from sb3_dai.native_update import NativeUpdate
from sb3_dai.packing import ALIGNMENT, Packed, PackedNets, packed_size, unpack

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def tensors():
    """The second is transposed in memory."""
    return [th.arange(6.0).reshape(2, 3), th.arange(20.0).reshape(5, 4).T, th.tensor(7.0), th.arange(40.0)]


def test_packed_tensors_are_what_they_were():
    given = tensors()
    packed = Packed(given)
    assert all(map(th.equal, given, tensors())) and [x.stride() for x in given] == [x.stride() for x in tensors()]
    assert (
        [start for _, _, start in packed.forms] == [0, 16, 48, 64]
        and len(packed.flat) == 64 + 48
        and all(n % ALIGNMENT == 0 for n in packed.sizes)
    )
    packed.flat.mul_(2.0)
    assert all(th.equal(ours, 2.0 * reference) for ours, reference in zip(given, tensors(), strict=True))
    assert all(map(th.equal, packed.views(packed.flat), given))
    assert th.equal(packed.flattened([2.0 * x for x in tensors()]), packed.flat), "in the order of the memory, zeros between"
    spread = packed.expanded([th.tensor(float(i)) for i in range(4)])
    assert all(bool((view == i).all()) for i, view in enumerate(packed.views(spread)))


def test_what_was_moved_out_is_moved_in_again():
    given = tensors()
    packed = Packed(given)
    assert packed.in_place
    given[1].data = given[1] + 1.0
    assert not packed.in_place
    packed.place()
    assert packed.in_place and th.equal(packed.views(packed.flat)[1], tensors()[1] + 1.0)
    unpack(given)
    assert not packed.in_place and all(x.untyped_storage().nbytes() == x.nbytes for x in given)
    assert th.equal(given[1], tensors()[1] + 1.0)


def test_the_order_in_memory_may_be_given():
    """That of a parameter, for what Adam keeps of it, which a file may hold in another."""
    (parameter,), (moment,) = [th.zeros(5, 4).T], [th.arange(20.0).reshape(4, 5)]
    Packed([moment], [parameter])
    assert moment.stride() == parameter.stride() == (1, 4) and th.equal(moment, th.arange(20.0).reshape(4, 5))


def test_views_of_a_part_of_a_larger_piece():
    """TorchInductor before torch 2.13 takes such a part for the whole in as_strided."""
    given = tensors()
    whole = th.zeros(5 + packed_size(given))
    packed = Packed(given, flat=whole[5:])
    for one, other, tensor in zip(packed.views(packed.flat), tensors(), given, strict=True):
        assert th.equal(one, other) and one.stride() == tensor.stride() and one.data_ptr() == tensor.data_ptr()
    graph = make_fx(lambda flat: [view + 1.0 for view in packed.views(flat)])(packed.flat)
    assert not any("as_strided" in str(node.target) for node in graph.graph.nodes)


def test_which_nets_can_be_packed():
    model = make("CartPole-v1")
    assert not PackedNets.possible(model), "Adam has kept nothing yet"
    model.learn(60)
    assert PackedNets.possible(model)
    transitions = [model.policy.optimizer.state[parameter] for parameter in model.policy.transition_parameters()]
    parameter = model.policy.net_parameters()[-1]
    for one in (transitions[-1], model.policy.optimizer.state[parameter]):
        one["step"] += 1.0
        assert not PackedNets.possible(model), "not as often as those that it learns with"
        one["step"] -= 1.0
        assert PackedNets.possible(model)
    for state in transitions:
        state["step"] -= 10.0
    for policies in model.policy.policy_net.parameters():
        model.policy.optimizer.state[policies]["step"] -= 5.0
    assert PackedNets.possible(model), "the transition net is one by itself, and so is the policy net"
    parameter.requires_grad_(False)
    assert not PackedNets.possible(model), "frozen"
    parameter.requires_grad_(True)
    online, target = model.policy.target_pairs()
    model.policy.target_pairs = lambda: (online[::-1], target[::-1])
    assert not PackedNets.possible(model), "a policy of the user's may have another order"
    del model.policy.target_pairs
    model.policy.optimizer.param_groups[0]["weight_decay"] = 0.1
    assert not PackedNets.possible(model), "no plain Adam"


def test_a_policy_whose_extractor_comes_last_is_not_packed():
    """What has a target is one piece, in which the policy net is the last."""
    model = make(policy_kwargs=dict(net_arch=[8], features_extractor_class=BatchNormDropout)).learn(60)
    policy = model.policy
    assert PackedNets.possible(model)
    n_values, n_policy = len([*policy.value_net.parameters()]), len([*policy.policy_net.parameters()])
    for name, n_first in (("target_pairs", n_values), ("average_pairs", 0)):
        turned = [each[:n_first] + each[-n_policy:] + each[n_first:-n_policy] for each in getattr(policy, name)()]
        setattr(policy, name, lambda turned=turned: tuple(turned))
    assert not PackedNets.possible(model)
    model.train(gradient_steps=2, batch_size=32)


def test_parts_of_the_packed_nets():
    model = make("CartPole-v1").learn(60)
    # A file may hold them in another order
    for state in model.policy.optimizer.state.values():
        state["exp_avg"] = state["exp_avg"].mT.contiguous().mT if state["exp_avg"].dim() > 1 else state["exp_avg"]
    packed = PackedNets(model)
    for part in packed.learned:
        assert part.exp_avg.forms == part.exp_avg_sq.forms == part.nets.forms, "moments lie as the nets do"
        assert part.step.tensors[0].item() == model._n_updates
    nets = model.policy.value_net, model.policy.policy_net, model.policy.transition_net
    for part, net in zip(packed.learned, nets, strict=True):
        assert [*map(id, part.nets.tensors)] == [*map(id, net.parameters())]
    values, policies, _ = (part.nets.flat for part in packed.learned)
    assert th.equal(th.cat([values, policies]), packed.online), "what has a target is one piece"
    assert values.data_ptr() == packed.online.data_ptr() and len(packed.online) == len(packed.target.flat)
    averaged = packed.online[packed.first_averaged :]
    assert th.equal(packed.average.flattened(list(model.policy.policy_net.parameters())), averaged)


SETTINGS = {
    "default": dict(),
    "the world model in every second step": dict(env=SampledEnv(VECTOR, BOX), transition_delay=2),
    "the policy in every second step, the world model in every third": dict(
        policy_delay=2, transition_delay=3, max_grad_norm=0.01
    ),
    "an automatic weight": dict(epistemic_weight="auto"),
    "a fixed precision": dict(precision=2.0),
    "much clipping": dict(max_grad_norm=0.01),
    "no clipping": dict(max_grad_norm=None),
    "targets by the step of the environment": dict(target_update_interval=7),
    "buffers and an extractor": dict(policy_kwargs=dict(net_arch=[8], features_extractor_class=BatchNormDropout)),
    "constants of Adam": dict(
        policy_kwargs=dict(net_arch=[8], optimizer_kwargs=dict(betas=(0.8, 0.99), eps=1e-3, fused=False))
    ),
}


@pytest.mark.parametrize("kwargs", SETTINGS.values(), ids=SETTINGS)
def test_steps_of_packed_nets_are_the_optimizers(monkeypatch, kwargs):
    models, taken, optimize = [], [], PackedNets.optimize
    for packed in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(NativeUpdate, "_is_ready", lambda self: False)
            if packed:
                patch.setattr(PackedNets, "optimize", lambda self, *args: taken.append(1) or optimize(self, *args))
            else:
                patch.setattr(PackedNets, "possible", lambda model: False)
            models.append(make(**{"env": "CartPole-v1", "seed": 3, **kwargs}).learn(75, log_interval=1000))
    assert len(taken) >= 20
    assert_same(*models)


def test_steps_that_are_left_to_the_optimizer(monkeypatch):
    """Several rates, a gradient that is missing, and whoever waits for a step of the optimizer."""
    monkeypatch.setattr(NativeUpdate, "_is_ready", lambda self: False)
    taken, optimize = [], PackedNets.optimize
    monkeypatch.setattr(PackedNets, "optimize", lambda self, *args: taken.append(1) or optimize(self, *args))

    def is_packed(model):
        taken.clear()
        model.train(gradient_steps=2, batch_size=32)
        return bool(taken)

    model = make(policy_kwargs=dict(net_arch=[8], lr_multipliers=dict(value=2.0))).learn(60)
    packed = model._packing.packed
    assert not is_packed(model) and packed is not None and model._packing.packed is packed, "and it is not packed anew"
    model, told = make().learn(60), []
    assert is_packed(model)
    optimizer = model.policy.optimizer
    for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook, register_optimizer_step_pre_hook):
        handle = register(lambda *args: told.append(1))
        assert not is_packed(model) and told == [1, 1]
        handle.remove()
        told.clear()
    scheduler = th.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    assert not is_packed(model), "the scheduler counts steps"
    scheduler.step()
    del optimizer.step
    assert is_packed(model)

    gradients, first = model._gradients, model.policy.value_net.layers[0].weight

    def some(keeps):
        def some_gradients(parameters, inputs):
            *logged, found = gradients(parameters, inputs)
            return *logged, [each if keeps(x) else None for x, each in zip(parameters, found, strict=True)]

        return some_gradients

    with monkeypatch.context() as patch:
        patch.setattr(model, "_gradients", some(lambda x: x is not first))
        before = first.clone()
        assert not is_packed(model) and th.equal(before, first)
    assert not is_packed(model) and model._packing.packed is None, "it has learned less often than those that it learns with"


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(dict(precision=2.0), dict(precision="auto")), (dict(epistemic_weight=0.1), dict(epistemic_weight="auto"))],
    ids=["precision", "epistemic weight"],
)
def test_what_was_a_number_may_learn(compile, before, after):
    """What has never learned has no moments in the optimizer, and nobody may take it for something that has."""
    model = make(**before, compile=compile, seed=0).learn(60)
    ((name, value),) = after.items()
    parameter = getattr(model.policy, f"log_{name}")
    assert model.policy.optimizer.state[parameter] == {}, "looking makes an entry"
    setattr(model, name, value)
    start = parameter.detach().clone()
    model.learn(10, reset_num_timesteps=False)
    assert not th.equal(start, parameter) and model.policy.optimizer.state[parameter]["step"] == 10
    assert model._packing.packed is not None, "and the nets are packed again"


def test_an_optimizer_of_the_users():
    model = make(seed=0).learn(60)
    model.policy.optimizer = th.optim.Adam([*model.policy.dual_parameters(), *model.policy.net_parameters()])
    model.learn(10, reset_num_timesteps=False)
    assert model._n_updates == 20 and model.policy.optimizer.param_groups[0]["lr"] == model.lr_schedule(0.0)


def test_gradients_are_seen_and_moments_may_be_exchanged(monkeypatch):
    monkeypatch.setattr(NativeUpdate, "_is_ready", lambda self: False)
    model = make(max_grad_norm=1e-3).learn(60)
    nets = model.policy.net_parameters()
    assert model._packing.packed is not None
    seen = [parameter.grad.clone() for parameter in nets]
    model.train(gradient_steps=1, batch_size=32)
    assert not all(map(th.equal, seen, [parameter.grad for parameter in nets])), "those of the last step"
    assert float(th.stack([parameter.grad.norm() for parameter in nets]).norm()) == pytest.approx(1e-3, rel=1e-2), "clipped"
    for parameter in nets:
        model.policy.optimizer.state[parameter]["exp_avg"] = th.zeros_like(parameter)
    model.train(gradient_steps=1, batch_size=32)
    for parameter in nets:
        moment = model.policy.optimizer.state[parameter]["exp_avg"]
        th.testing.assert_close(moment, 0.1 * parameter.grad)


def test_shared_memory_stays_shared():
    model = make().learn(60)
    model.policy.share_memory()
    model.train(gradient_steps=3, batch_size=32)
    assert all(parameter.is_shared() for parameter in model.policy.parameters()) and model._packing.packed is None


def test_views_of_a_part_of_a_tensor():
    given = tensors()
    packed = Packed(given)
    twice = th.cat([th.zeros(32), packed.flat])
    assert all(map(th.equal, packed.views(twice[32:]), given))


def test_other_moments_are_another_graph(monkeypatch):
    """Those of a loaded optimizer: they are constants of a graph."""
    monkeypatch.setattr(NativeUpdate, "_is_ready", lambda self: False)
    model, compiled_for, ran = make("CartPole-v1", compile=True), [], []

    def compile(self, given, inputs, packed):
        compiled_for.append(packed.betas)

        def run(tensors, packed):
            ran.append(packed.betas)
            return *model._update(given), []

        return run

    monkeypatch.setattr(CompiledUpdate, "_compile", compile)
    model.learn(52)
    assert model._n_updates == 2 and len(compiled_for) == 1, "the first makes Adam's state, the second is compiled"
    model.learn(10, reset_num_timesteps=False)
    parameters = copy.deepcopy(model.get_parameters())
    model.set_parameters(parameters)
    model.train(gradient_steps=3, batch_size=32)
    assert compiled_for == [(0.9, 0.999)], "loading alone keeps the graph"
    parameters["policy.optimizer"]["param_groups"][0]["betas"] = (0.5, 0.9)
    model.set_parameters(parameters)
    model.train(gradient_steps=3, batch_size=32)
    assert compiled_for == [(0.9, 0.999), (0.5, 0.9)]
    model.policy.optimizer.param_groups[0]["betas"] = [0.5, 0.8]
    model.train(gradient_steps=3, batch_size=32)
    assert compiled_for == [(0.9, 0.999), (0.5, 0.9), [0.5, 0.8]], "whoever sets them"
    model.policy.optimizer.state.clear()
    ran.clear()
    model.train(gradient_steps=3, batch_size=32)
    assert len(compiled_for) == 3 and len(ran) == 2, "Adam begins again, and then with the same graph"
    assert {int(state["step"]) for state in model.policy.optimizer.state.values()} == {3}


def test_leaves():
    assert leaves((1, {"a": (2, None), "b": 3.0}, ())) == [1, 2, None, 3.0]


@needs_compiler
def test_packed_nets_move_and_are_pickled():
    """Whoever moves the tensors of a compiled agent, training goes on from their values; a pickle holds each once."""
    # Groups of parameters, each with a learning rate of its own
    kwargs = dict(policy_kwargs=dict(net_arch=[8], lr_multipliers=dict(transition=0.5, value=2.0)))
    plain, compiled = (make("CartPole-v1", seed=1, compile=c, **kwargs).learn(60, log_interval=1000) for c in (False, True))
    assert all(packed is not None for _, packed in compiled._compiled_update.ready.values())

    def alike():
        for model in (plain, compiled):
            np.random.seed(0)
            th.manual_seed(0)
            model.train(gradient_steps=3, batch_size=32)
        states = plain.policy.state_dict(), compiled.policy.state_dict()
        for name, tensor in states[0].items():
            th.testing.assert_close(
                tensor, states[1][name], rtol=1e-2, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
            )

    alike()
    assert len(pickle.dumps(compiled.policy)) < 1.2 * len(pickle.dumps(plain.policy))
    alike()
    for model in (plain, compiled):
        parameters = [*model.policy.value_net.parameters()]
        th.nn.utils.vector_to_parameters(0.9 * th.nn.utils.parameters_to_vector(parameters), parameters)
    alike()
    for model in (plain, compiled):  # Buffers are other objects then
        model.policy.double().float()
    alike()
    assert len(pickle.dumps(compiled.get_parameters())) < 1.2 * len(pickle.dumps(plain.get_parameters()))
    copied = copy.deepcopy(compiled.policy.state_dict())
    twin = pickle.loads(pickle.dumps(compiled.policy))
    assert all(th.equal(copied[name], tensor) for name, tensor in twin.state_dict().items())
    assert len(compiled._compiled_update.graphs) == 1, "compiled once"
    compiled.policy.double()  # For which the graph was not made
    with pytest.warns(UserWarning, match="compile=True"), pytest.raises(RuntimeError, match="dtype"):
        compiled.train(gradient_steps=3, batch_size=32)
