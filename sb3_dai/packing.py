"""Many small tensors as pieces of a large one, on which a kernel works at once."""

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch as th

from sb3_dai.adam import adam_corrections, is_plain_adam, steps_plainly

if TYPE_CHECKING:
    from sb3_dai.dai import DAI

ALIGNMENT = 16
"""Each piece begins at a multiple of so many numbers, as vector instructions and matrix products like it."""


def packed_size(tensors: Iterable[th.Tensor]) -> int:
    """
    :param tensors: any
    :return: how many numbers they take in one piece
    """
    return sum(-(-tensor.numel() // ALIGNMENT) * ALIGNMENT for tensor in tensors)


def in_memory(strides: Sequence[int]) -> list[int]:
    """
    :param strides: of a dense tensor
    :return: its axes as they lie in memory, the outermost first
    """
    return sorted(range(len(strides)), key=lambda i: -strides[i])


class Packed:
    """
    Moves tensors into one piece of memory. They stay the objects that they are, with their shapes and values.

    :param tensors: of one type, on one device
    :param forms: whose order in memory they are to have; their own if None
    :param flat: the piece, of ``packed_size``; a new one if None
    """

    def __init__(
        self, tensors: Sequence[th.Tensor], forms: Sequence[th.Tensor] | None = None, flat: th.Tensor | None = None
    ) -> None:
        self.tensors = list(tensors)
        dense = [th.empty_like(tensor, device="meta") for tensor in forms or tensors]
        self.sizes = [packed_size([tensor]) for tensor in dense]
        *starts, end = [0, *itertools.accumulate(self.sizes)]
        self.forms = [(tensor.shape, tensor.stride(), start) for tensor, start in zip(dense, starts, strict=True)]
        self.flat = self.tensors[0].detach().new_zeros(end) if flat is None else flat
        self.place()

    def place(self) -> None:
        """Move the tensors in, or in again after something else has moved them out."""
        with th.no_grad():
            for tensor, piece in zip(self.tensors, self.views(self.flat), strict=True):
                if tensor.data_ptr() != piece.data_ptr() or tensor.stride() != piece.stride():
                    piece.copy_(tensor)
                    tensor.data = piece
        self.pointers = [*map(th.Tensor.data_ptr, self.tensors)]

    @property
    def in_place(self) -> bool:
        """Whether nothing has moved the tensors, such as a change of device, or ``vector_to_parameters`` of torch."""
        return [*map(th.Tensor.data_ptr, self.tensors)] == self.pointers

    def views(self, flat: th.Tensor) -> list[th.Tensor]:
        """
        :param flat: of the size of ``self.flat``
        :return: its pieces, of the shapes of the tensors
        """
        views = []
        for shape, strides, start in self.forms:
            # By slices: TorchInductor before torch 2.13 counts the offset of a part of a larger tensor twice in as_strided
            order = in_memory(strides)
            dense = flat[start : start + shape.numel()].view([shape[i] for i in order])
            views.append(dense.permute([order.index(i) for i in range(len(shape))]))
        return views

    def flattened(self, tensors: Sequence[th.Tensor]) -> th.Tensor:
        """
        :param tensors: of the shapes of the packed ones
        :return: in the order of ``self.flat``, of its size, with zeros between them
        """
        parts: list[th.Tensor] = []
        for tensor, size, (_, strides, _) in zip(tensors, self.sizes, self.forms, strict=True):
            parts.append(tensor.permute(in_memory(strides)).reshape(-1))
            if size > tensor.numel():
                parts.append(tensor.new_zeros(size - tensor.numel()))
        return th.cat(parts)

    def expanded(self, scalars: Sequence[th.Tensor]) -> th.Tensor:
        """
        :param scalars: one for each of the packed tensors, shapes ()
        :return: each for all the numbers of its tensor, of the size of ``self.flat``
        """
        return th.cat([scalar.expand(size) for scalar, size in zip(scalars, self.sizes, strict=True)])


class LearnedTogether(NamedTuple):
    """Parameters that learn in the same gradient steps, and what Adam keeps of them."""

    nets: Packed
    step: Packed
    exp_avg: Packed
    exp_avg_sq: Packed

    @classmethod
    def of(
        cls, parameters: Sequence[th.Tensor], optimizer: th.optim.Optimizer, flat: th.Tensor | None = None
    ) -> "LearnedTogether":
        """
        :param parameters: trained equally often
        :param optimizer: which has trained them
        :param flat: as in ``Packed``
        :return: they are moved into common memory
        """
        states = [optimizer.state[parameter] for parameter in parameters]
        moments = (Packed([state[name] for state in states], parameters) for name in ("exp_avg", "exp_avg_sq"))
        return cls(Packed(parameters, flat=flat), Packed([state["step"] for state in states]), *moments)


def learned_together(model: "DAI") -> list[list[th.Tensor]]:
    """
    :param model: an agent
    :return: the parameters of its nets in lists of those that learn in the same gradient steps: what always learns, the policy
        net's, both in the order of ``DAIPolicy.target_pairs``, the transition net's if there is one, and what nobody knows of
    """
    policy = model.policy
    online, policies, transitions = policy.target_pairs()[0], [*policy.policy_net.parameters()], policy.transition_parameters()
    known = {id(parameter) for parameter in [*online, *transitions]}
    others = [parameter for parameter in policy.net_parameters() if id(parameter) not in known]
    lists: list[list[th.Tensor]] = [online[: len(online) - len(policies)], [*policies], [*transitions], [*others]]
    return [parameters for parameters in lists if parameters]


class PackedNets:
    """
    The nets that learn, their copies (targets and averages) and what Adam keeps of them, each as one tensor: an update is then
    one kernel on few inputs, instead of one for each layer.

    :param model: the agent
    """

    def __init__(self, model: "DAI") -> None:
        policy, optimizer = model.policy, model.policy.optimizer
        online, target = policy.target_pairs()
        averaged, average = policy.average_pairs()
        lists = learned_together(model)
        # Those with a target in one piece, as it is
        self.online = online[0].detach().new_zeros(packed_size(online))
        flats = [*self.online.split([*map(packed_size, lists[:2])]), *(None for _ in lists[2:])]
        self.learned = [LearnedTogether.of(each, optimizer, flat) for each, flat in zip(lists, flats, strict=True)]
        self.target, self.average = Packed(target, online), Packed(average, averaged)
        self.nets_and_copies = [*(together.nets for together in self.learned), self.target, self.average]
        self.parts = [*itertools.chain(*self.learned), self.target, self.average]
        self.betas, self.eps = optimizer.param_groups[0]["betas"], optimizer.param_groups[0]["eps"]
        self.optimizer, self.dual = optimizer, policy.dual_parameters()
        sizes = [len(together.nets.flat) for together in self.learned]
        self.gradients = self.online.new_zeros(sum(sizes))
        self.gradient_parts = self.gradients.split(sizes)
        parts = zip(self.learned, self.gradient_parts, strict=True)
        self.views_of_parts = [together.nets.views(part) for together, part in parts]
        self.gradient_views = [*itertools.chain(*self.views_of_parts)]
        parameters = itertools.chain(*(part.nets.tensors for part in self.learned))
        for parameter, view in zip(parameters, self.gradient_views, strict=True):
            parameter.grad = view.detach()  # Another view: a conversion of the parameter moves its gradient, too
        # Of those that have a target, the last are averaged as well
        self.first_averaged = len(self.online) - len(self.average.flat)

    def tensors(self) -> list[th.Tensor]:
        """
        :return: of ``parts``, in their order
        """
        if not all(packed.in_place for packed in self.nets_and_copies):
            for packed in self.parts:
                packed.place()
        return [packed.flat for packed in self.parts]

    def corrections(self) -> list[float]:
        """
        :return: ``adam_corrections`` of the next step of each of ``learned``, one after the other
        """
        steps = [together.step.tensors[0].item() + 1.0 for together in self.learned]
        return [factor for step in steps for factor in adam_corrections(self.betas, step)]

    def learns(self, gradient_of: Collection[int]) -> list[int] | None:
        """
        :param gradient_of: ``id`` of each parameter that learns in a gradient step
        :return: which of ``learned`` these are, or None if of something a part learns, or something for the first time
        """
        # An automatic precision that was a number until now has no moments, which the optimizer makes
        if any(id(parameter) in gradient_of and not self.optimizer.state.get(parameter) for parameter in self.dual):
            return None
        learned = [i for i, together in enumerate(self.learned) if id(together.nets.tensors[0]) in gradient_of]
        n_parameters = sum(len(self.learned[i].nets.tensors) for i in learned)
        n_parameters += sum(id(parameter) in gradient_of for parameter in self.dual)
        return learned if learned and n_parameters == len(gradient_of) else None

    @th.no_grad()
    def optimize(self, learns: Sequence[int], gradient_of: dict[int, th.Tensor], max_norm: float | None) -> None:
        """
        One step of Adam, in place, on a CPU.

        :param learns: of ``learns``
        :param gradient_of: gradients by the ``id`` of their parameters
        :param max_norm: largest Euclidean norm of the nets' gradients together, ``None`` for no clipping
        """
        optimizer = self.optimizer
        learned, parts = [self.learned[i] for i in learns], [self.gradient_parts[i] for i in learns]
        views = [view for i in learns for view in self.views_of_parts[i]]
        nets = [parameter for together in learned for parameter in together.nets.tensors]
        dual = [parameter for parameter in self.dual if id(parameter) in gradient_of]
        self.tensors()  # Puts back what was moved
        th._foreach_copy_(views, [gradient_of[id(parameter)] for parameter in nets])
        if max_norm is not None:
            # All that learns is one piece, but where the policy does not and the world model does
            clipped = [self.gradients[: sum(map(len, parts))]] if [*learns] == [*range(len(learns))] else parts
            norm = th.linalg.vector_norm(th.stack([*map(th.linalg.vector_norm, clipped)]))
            th._foreach_mul_(clipped, (max_norm / (norm + 1e-6)).clamp_(max=1.0))
        of_dual = [optimizer.state[parameter] for parameter in dual]
        for parameter in dual:
            parameter.grad = gradient_of[id(parameter)]
        th._foreach_add_([*(together.step.flat for together in learned), *(state["step"] for state in of_dual)], 1.0)
        th._fused_adam_(
            [*(together.nets.flat for together in learned), *dual],
            [*parts, *(gradient_of[id(parameter)] for parameter in dual)],
            [*(together.exp_avg.flat for together in learned), *(state["exp_avg"] for state in of_dual)],
            [*(together.exp_avg_sq.flat for together in learned), *(state["exp_avg_sq"] for state in of_dual)],
            [],
            [*(together.step.tensors[0] for together in learned), *(state["step"] for state in of_dual)],
            lr=optimizer.param_groups[0]["lr"],
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    @property
    def target_pairs(self) -> tuple[list[th.Tensor], list[th.Tensor]]:
        """As ``DAIPolicy.target_pairs``, of one tensor each."""
        return [self.online], [self.target.flat]

    @property
    def average_pairs(self) -> tuple[list[th.Tensor], list[th.Tensor]]:
        """As ``DAIPolicy.average_pairs``, of one tensor each."""
        return [self.online[self.first_averaged :]], [self.average.flat]

    @staticmethod
    def possible(model: "DAI") -> bool:
        """
        :param model: an agent
        :return: whether its optimizer is a plain Adam, which has trained equally often what learns together, and its nets are
            of one type of numbers
        """
        policy, optimizer = model.policy, model.policy.optimizer
        online, averaged = policy.target_pairs()[0], policy.average_pairs()[0]
        policies = [*policy.policy_net.parameters()]
        if any([*map(id, online[len(online) - len(part) :])] != [*map(id, part)] for part in (policies, averaged)):
            return False  # A policy of the user's has them in another order
        together = learned_together(model)
        nets = [*itertools.chain(*together)]
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return (
            is_plain_adam(optimizer)
            and trained.issuperset(map(id, nets))
            and len({(*group["betas"], group["eps"]) for group in optimizer.param_groups}) == 1
            and all(optimizer.state.get(parameter) for parameter in nets)
            and all(len({float(optimizer.state[parameter]["step"]) for parameter in part}) == 1 for part in together)
            and len({(parameter.dtype, parameter.device) for parameter in nets}) == 1
            and all(parameter.requires_grad and not parameter.is_shared() for parameter in nets)
        )


class Packing:
    """
    The packed nets of an agent, as long as what they were packed with is what it has.

    :param model: the agent
    """

    def __init__(self, model: "DAI") -> None:
        self.model = model
        self.state: Any = None
        self.key: tuple[Any, ...] = ()
        self.packed: PackedNets | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Packed are the tensors of this agent: a copy of it, pickled or deep, packs its own."""
        return vars(Packing(self.model))

    def nets(self) -> PackedNets | None:
        """
        :return: the packed nets, or None if they cannot be packed
        """
        model, optimizer = self.model, self.model.policy.optimizer
        groups = optimizer.param_groups
        rules = [len(value) if name == "params" else value for x in groups for name, value in x.items() if name != "lr"]
        free = [parameter.requires_grad for parameter in model.learned_parameters]
        moments = [*map(id, itertools.chain.from_iterable(state.values() for state in optimizer.state.values()))]
        key = moments, model.policy.n_moves, rules, free
        if self.state is not optimizer.state or self.key != key:
            self.state, self.key = optimizer.state, key
            self.packed = PackedNets(model) if PackedNets.possible(model) else None
        return self.packed

    def optimize(self, gradients: Sequence[th.Tensor | None], max_norm: float | None) -> PackedNets | None:
        """
        One step of Adam.

        :param gradients: of the learned parameters
        :param max_norm: as in ``PackedNets.optimize``
        :return: the nets that took it; None if it is left to the optimizer
        """
        packed = self.nets() if self.model.device.type == "cpu" else None
        if packed is None:
            return None
        known = zip(self.model.learned_parameters, gradients, strict=True)
        gradient_of = {id(parameter): gradient for parameter, gradient in known if gradient is not None}
        learns = packed.learns(gradient_of)
        if learns is None:  # Some are about to learn less often than those that they learn with: ask again
            self.state = None
        if learns is None or not steps_plainly(packed.optimizer):
            return None
        packed.optimize(learns, gradient_of, max_norm)
        return packed


def unpack(tensors: Iterable[th.Tensor]) -> None:
    """
    Give each its own memory. A view is pickled with all the memory that it is a view of, by ``pickle`` once for each view.

    :param tensors: any, some of them packed
    """
    for tensor in tensors:
        if tensor.untyped_storage().nbytes() > tensor.nbytes:
            tensor.data = tensor.detach().clone()
