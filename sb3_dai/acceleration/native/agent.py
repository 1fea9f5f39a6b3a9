"""Which agents the C++ step is for."""

from typing import Any

import torch as th
from torch import nn

from sb3_dai.acceleration.native.plan import evaluated_by_torch, has_filter, kind_of, source_of
from sb3_dai.acceleration.native.watch import is_heard, modules_of
from sb3_dai.actions import CategoricalActions, GaussianActions
from sb3_dai.efe import EpistemicTerm, PredictionErrorTerm, PreferenceTerm
from sb3_dai.nets.ensembles import BatchedLayerNorm, BatchedLinear, BatchedTable, EnsembleMLP
from sb3_dai.nets.statistics import RunningMean, RunningNorm, RunningPeak
from sb3_dai.world_model import CategoricalWorldModel, DirichletWorldModel, GaussianWorldModel

NETS = ("policy_net", "value_net", "value_net_target", "policy_net_target", "policy_net_average")

LAYERS = (BatchedLinear, BatchedTable, BatchedLayerNorm, nn.ReLU)

STATISTICS = (RunningMean, RunningNorm, RunningPeak)

PLAIN_ADAM = dict(weight_decay=0, amsgrad=False, maximize=False, capturable=False, differentiable=False)


def nets_of(policy: Any) -> list[EnsembleMLP]:
    """
    :param policy: the nets of an agent
    :return: those that the C++ step evaluates or moves
    """
    nets = [getattr(policy, name) for name in NETS]
    reward_net = policy.reward_net if has_filter(policy) else None
    return nets + [net for net in (policy.world_model.net, policy.world_model.prior, reward_net) if net is not None]


def objects_of(eager: Any) -> list[tuple[str, Any]]:
    """
    :param eager: the definition of a gradient step
    :return: what its methods are looked up in, with the names in ``fingerprint.IN_OBJECTS`` of the classes that they stand for
    """
    policy = eager.policy
    kinds: list[tuple[type, Any]] = [(GaussianActions, policy.action_model), (CategoricalActions, policy.action_model)]
    kinds += [(GaussianWorldModel, policy.world_model), (DirichletWorldModel, policy.world_model)]
    if not isinstance(policy.world_model, DirichletWorldModel):  # Which predicts by its own methods
        kinds.append((CategoricalWorldModel, policy.world_model))
    kinds += [(kind, term) for term in policy.terms.values() for kind in (PreferenceTerm, EpistemicTerm, PredictionErrorTerm)]
    objects = [(f"{kind.__module__}.{kind.__qualname__}", each) for kind, each in kinds if isinstance(each, kind)]
    if has_filter(policy):
        objects.append(("sb3_dai.world_model.recurrent.LstmFilter", policy.belief_filter))
    of_policy = "sb3_dai.policy_recurrent.RecurrentPolicy" if policy.memory_dim > 0 else "sb3_dai.policy.DAIPolicy"
    terms = [("sb3_dai.efe.base.Term", term) for term in policy.terms.values()]
    return [("sb3_dai.learning.step.EagerStep", eager), (of_policy, policy), *objects, *terms]


def reason_against(policy: Any) -> str | None:
    """
    :param policy: the nets of an agent
    :return: why the C++ step is not for it, or None
    """
    if policy.device.type != "cpu":
        return f"the device is {policy.device}"
    if kind_of(policy.world_model) is None:
        return f"it does not know the world model {type(policy.world_model).__name__}"
    if not isinstance(policy.action_model, CategoricalActions | GaussianActions):
        return f"it does not know the actions of {type(policy.action_model).__name__}"
    if policy.lookahead:
        return "lookahead=True asks the ensemble about all actions"
    net = policy.world_model.net
    if net is not None and net.numbered and policy.n_states is None:
        return "the world model reads numbers of states from what an extractor makes of them"
    if is_heard(policy):
        return "there is a hook of a module or the optimizer, or a module's forward or the optimizer's step was exchanged"
    return reason_of_nets(policy) or reason_of_terms(policy) or reason_of_optimizer(policy)


def reason_of_nets(policy: Any) -> str | None:
    """
    :param policy: the nets of an agent
    :return: why the C++ step cannot evaluate them, or None
    """
    for net in nets_of(policy):
        layers = [*net.layers] if type(net) is EnsembleMLP and type(net.layers) is nn.Sequential else [net]
        unknown = next((layer for layer in layers if type(layer) not in LAYERS), None)
        if unknown is not None:
            return f"it does not know the layer {type(unknown).__name__}"
        if not is_usual(net):
            return "layers of a net have another order or shape than EnsembleMLP gives them"
    known = [term for term in policy.terms.values() if isinstance(term, EpistemicTerm | PredictionErrorTerm)]
    terms = [*(term.elsewhere for term in policy.terms.values()), *(getattr(term, "scale", None) for term in known)]
    for part in (*norms_of(policy), *terms):
        if part is not None and type(part) not in STATISTICS:
            return f"it does not know the statistics of {type(part).__name__}"
    if any(norm.center != is_centered for norm, is_centered in norms_of(policy).items()):
        return "the center of a norm is another one"
    if has_filter(policy) and (policy.reward_net.n_members, policy.reward_net.layers[-1].weight.shape[2]) != (1, 1):
        return "the reward net has more than one output"
    learned = [*net_parameters(policy), *evaluated_by_torch(policy), policy.log_precision]
    copies = [p for nets in (policy.target_pairs()[1], policy.average_pairs()[1]) for net in nets for p in net.parameters()]
    statistics = [policy.pessimism, *(b for m in modules_of(policy) if type(m) in STATISTICS for b in m._buffers.values())]
    for tensor in (*learned, *copies, *statistics, *(p for net in nets_of(policy) for p in net.parameters())):
        if tensor.dtype != th.float32 or not tensor.is_contiguous() or tensor.device.type != "cpu":
            return f"a tensor is of {tensor.dtype} on {tensor.device}, or its numbers do not lie one after the other"
    if any(parameter._backward_hooks for parameter in learned):
        return "there is a hook of a parameter"
    return "a part of the nets is frozen" if not all(p.requires_grad for p in net_parameters(policy)) else None


def norms_of(policy: Any) -> dict[Any, bool]:
    """
    :param policy: the nets of an agent
    :return: norms that the C++ step reads, and whether they subtract the mean
    """
    norms = {policy.features_norm: True}
    if hasattr(policy.world_model, "change_norm"):
        norms[policy.world_model.change_norm] = False
    return {**norms, policy.reward_norm: True} if has_filter(policy) else norms


def net_parameters(policy: Any) -> list[nn.Parameter]:
    """
    :param policy: the nets of an agent
    :return: parameters of those that the C++ step trains
    """
    nets = [policy.value_net, policy.policy_net, *([policy.world_model.net] if policy.world_model.net is not None else [])]
    if has_filter(policy):
        nets += [policy.belief_filter, policy.reward_net]
    return [parameter for net in nets for parameter in net.parameters()]


def is_usual(net: EnsembleMLP) -> bool:
    """
    :param net: of known layers
    :return: whether they have the order and the shapes that ``EnsembleMLP`` gives them
    """
    kinds: list[type] = [type(layer) for layer in net.layers]
    normed = BatchedLayerNorm in kinds
    middle: list[type] = [BatchedLinear, *([BatchedLayerNorm] if normed else []), nn.ReLU]
    n_hidden = kinds.count(nn.ReLU)
    wanted = [*middle * n_hidden, BatchedLinear]
    if net.numbered:
        wanted[0] = BatchedTable
    if kinds != wanted:
        return False
    size: int | None = None
    for layer in net.layers:
        tensors = [*layer.parameters()]
        if any(tensor.dim() != 3 or len(tensor) != net.n_members for tensor in tensors):
            return False
        if isinstance(layer, BatchedLinear | BatchedTable):
            if size is not None and tensors[0].shape[1] != size:
                return False
            size = tensors[0].shape[2]
            tensors = tensors[1:]
        if any(tuple(tensor.shape[1:]) != (1, size) for tensor in tensors):
            return False
    return True


def reason_of_terms(policy: Any) -> str | None:
    """
    :param policy: the nets of an agent
    :return: why the C++ step does not know a term of its EFE, or None
    """
    for name, term in policy.terms.items():
        if source_of(term) is None:
            return f"the EFE term {name!r} reads the prediction of the world model"
        if isinstance(term, EpistemicTerm) and isinstance(term.weight, str):
            return "the epistemic weight is automatic"
        if isinstance(term, EpistemicTerm) and (name != "epistemic" or term.novelty != policy.novelty):
            return f"the EFE term {name!r} has a novelty of its own"
        if isinstance(term, EpistemicTerm | PredictionErrorTerm) and not term.reads_prediction:
            return f"the EFE term {name!r} is to learn without the world model"
    return None


def reason_of_optimizer(policy: Any) -> str | None:
    """
    :param policy: the nets of an agent
    :return: why the C++ step cannot take the optimizer's, or None
    """
    optimizer = policy.optimizer
    if type(optimizer) is not th.optim.Adam:
        return f"the optimizer is {type(optimizer).__name__}"
    groups = optimizer.param_groups
    for name, value in PLAIN_ADAM.items():
        if any(group.get(name, value) != value for group in groups):
            return f"{name} is not that of a plain Adam"
    if any(group.get("decoupled_weight_decay") and group["weight_decay"] for group in groups):
        return "there is a decoupled weight decay"
    if len({(*group["betas"], group["eps"]) for group in groups}) > 1 or any(
        type(group["lr"]) is not float for group in groups
    ):
        return "parameters have betas or an eps of their own, or a learning rate that is no number"
    trained = {parameter for group in groups for parameter in group["params"]}
    known = {*net_parameters(policy), *evaluated_by_torch(policy), *policy.dual_parameters()}
    if trained != known:
        return "the optimizer does not train the nets alone, or not all of them"
    for state in optimizer.state.values():
        tensors = [state.get(name) for name in ("exp_avg", "exp_avg_sq", "step")]
        if any(t is None or t.dtype != th.float32 or not t.is_contiguous() or t.device.type != "cpu" for t in tensors):
            return "what the optimizer keeps is not of single precision on the CPU"
    return None
