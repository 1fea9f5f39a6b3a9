"""The gradient step by the C++ library, of which this is the one Python door."""

import ctypes
from typing import Any

import torch as th

from sb3_dai.acceleration.native import agent
from sb3_dai.acceleration.native.inference import Inference, check_features
from sb3_dai.acceleration.native.library import library
from sb3_dai.acceleration.native.plan import Plan, evaluated_by_torch
from sb3_dai.acceleration.native.structures import Group, Outcome, Source, WorldModel
from sb3_dai.acceleration.native.watch import Watch
from sb3_dai.acceleration.threads import VERY_WIDE
from sb3_dai.checks import check_losses
from sb3_dai.efe import PreferenceTerm, Transition
from sb3_dai.learning.batch import Batch
from sb3_dai.learning.coefficients import Coefficients
from sb3_dai.learning.losses import world_model_losses
from sb3_dai.learning.step import EagerStep, Metrics
from sb3_dai.world_model.base import Belief

MOMENTS = ("exp_avg", "exp_avg_sq")


class NativeStep:
    """
    A gradient step by C++: losses, gradients, clipping, Adam, target and average. Torch evaluates features extractors, belief
    filters other than an LSTM, Dirichlet beliefs and the costs of terms that do not read the world model, and draws the random
    numbers.

    :param eager: the definition of the step
    """

    name = "native"

    def __init__(self, eager: EagerStep) -> None:
        self.eager = eager
        self.plan: Plan | None = None
        self.watch: Watch | None = None
        self.fingerprint: Any = None
        self.reason: str | None = None

    def refusal(self, batch_size: int = 1) -> str | None:
        """
        :param batch_size: number of transitions of a gradient step
        :return: why C++ cannot take the next steps; None if it can
        """
        if library() is None:
            return "its library was not made when sb3_dai was installed, which takes a C++ compiler"
        if self.watch is None or self.fingerprint is None or not self.watch.is_same():
            # Here, so that python -m can run that module
            from sb3_dai.acceleration.native.fingerprint import Fingerprint

            self.fingerprint = Fingerprint(agent.objects_of(self.eager))
            self.reason, self.plan = agent.reason_against(self.eager.policy), None
            if self.reason is None:
                self._make_plan()
            self.watch = Watch(self.eager.policy)
        different = self.fingerprint.difference() if self.reason is None else None
        if different is not None or self.plan is None:
            return self.reason or different
        if th.get_num_threads() > 1 and self.plan.widest * batch_size > VERY_WIDE:
            return f"torch has {th.get_num_threads()} threads for wide layers, and it has one"
        self._show_gradients()
        self.plan.refresh()
        return None

    def _make_plan(self, learns_precision: bool = False) -> None:
        """
        :param learns_precision: whether the precision is automatic
        """
        policy = self.eager.policy
        learned = [*agent.net_parameters(policy), *evaluated_by_torch(policy)]
        for parameter in [*learned, policy.log_precision] if learns_precision else learned:
            self._prepare(parameter)
        self.plan = Plan(policy)
        self._show_gradients()

    def _prepare(self, parameter: th.Tensor) -> None:
        """
        Give a parameter what Adam begins with.

        :param parameter: that learns
        """
        optimizer = self.eager.policy.optimizer
        if parameter.requires_grad and not optimizer.state.get(parameter):
            moments = {name: th.zeros_like(parameter, memory_format=th.preserve_format) for name in MOMENTS}
            optimizer.state[parameter] = {"step": th.zeros((), dtype=th.float32), **moments}

    def _show_gradients(self) -> None:
        """Let ``parameter.grad`` be what C++ writes."""
        assert self.plan is not None
        for parameter, gradient in self.plan.gradients.items():
            if parameter.grad is not gradient:
                parameter.grad = gradient

    def __call__(self, batch: Batch, coefficients: Coefficients) -> Metrics:
        c, policy = coefficients, self.eager.policy
        if self.plan is None or c.learns_epistemic_weight or not self._is_usual(batch):
            return self.eager(batch, coefficients)
        if c.learns_precision and policy.log_precision.requires_grad and not policy.optimizer.state.get(policy.log_precision):
            self._make_plan(True)
            self.watch = Watch(policy)
        plan = self.plan
        update, alive = plan.update, [*batch]

        def place(tensor: Any, dtype: th.dtype = th.float32) -> int | None:
            if not isinstance(tensor, th.Tensor):  # A number that stands for all
                return None
            if tensor.dtype != dtype or not tensor.is_contiguous():
                alive.append(tensor := tensor.to(dtype).contiguous())
            return tensor.data_ptr()

        inference = None if batch.windows is None else Inference(plan, batch, c, place, alive)
        evaluated = self._observe(batch, c, place, alive) if inference is None else inference.infer()
        self._act(batch, place, alive)
        self._predict(batch, c, evaluated, place, alive)
        losses, samples = ({}, {}) if inference is None else inference.losses()
        self._weigh(batch, c, place, alive)
        if policy.action_model.reads_actions and c.learns_policy:
            alive.append(noise := th.randn(update.batch, update.n_actions))
            update.noise = noise.data_ptr()
        of_evaluated = None
        if evaluated is not None and evaluated.requires_grad:
            of_evaluated = th.empty_like(evaluated, dtype=th.float32, memory_format=th.contiguous_format)
        update.of_raw = place(of_evaluated)
        names, update.places = plan.names_of(c, losses, samples)
        update.terms = (values := th.empty(len(names))).data_ptr()
        lib = library()
        assert lib is not None
        outcome = lib.gradients(ctypes.byref(update))
        if outcome in (Outcome.NO_SUCH_ACTION, Outcome.NO_SUCH_STATE):
            what = f"actions that are not of {policy.action_space}"
            if outcome == Outcome.NO_SUCH_STATE:
                what = f"observations that are not of {policy.observation_space}"
            raise ValueError(f"The replay buffer has {what}: load another, or mend its wrapper")
        metrics = Metrics(names, values)
        for name, loss in losses.items():
            values[names.index(name)] = number = loss.detach().reshape(())
            values[0] += number
        for name, sample in samples.items():
            values[names.index(name)] = sample.detach().mean()
        if outcome == Outcome.NOT_FINITE or losses:
            check_losses(*metrics)
        if outcome == Outcome.NOT_FINITE:
            return metrics
        if plan.learned_by_torch:
            own = [(loss, th.ones_like(loss)) for loss in losses.values() if loss.requires_grad]
            self._learn_by_torch(own if of_evaluated is None else [(evaluated, of_evaluated), *own])
        self._optimize(c, lib)
        return metrics

    def _is_usual(self, batch: Batch) -> bool:
        """
        :param batch: of a gradient step
        :return: whether all has the usual shapes; torch says what is wrong with others
        """
        one_step, n_step = batch.one_step, batch.n_step
        n_rows, plan = len(one_step.actions), self.plan
        assert plan is not None
        categorical = not self.eager.policy.action_model.reads_actions
        numbers = batch.has_successor, one_step.dones, n_step.dones, n_step.discounts, batch.log_preference
        usual = one_step.actions.numel() == n_rows * (plan.update.n_choices if categorical else plan.update.n_actions)
        usual = usual and all(tuple(part.shape) == (n_rows, 1) for part in numbers if isinstance(part, th.Tensor))
        usual = usual and (batch.windows is None) == (self.eager.policy.memory_dim == 0)
        if batch.windows is not None and batch.windows.memory is not None and plan.has_filter:
            usual = usual and batch.windows.memory.shape[1] == 2 * plan.update.filter.hidden_size
        for samples in (one_step, n_step):
            for rows in (samples.observations, samples.next_observations):
                if self.eager.policy.reads_vectors:
                    usual = usual and tuple(rows.shape) == (n_rows, plan.update.n_features)  # type: ignore[union-attr]
                elif self.eager.policy.n_states is not None:
                    usual = usual and rows.numel() == n_rows  # type: ignore[union-attr]
        return usual

    def _observe(self, batch: Batch, c: Coefficients, place: Any, alive: list[Any]) -> th.Tensor | None:
        """
        Extract features, in the order of the eager step.

        :param batch: transitions
        :param c: numbers of the step
        :param place: where a tensor lies
        :param alive: what has to live until the step is done
        :return: the features of s as extracted, or None if C++ codes the numbers of states
        """
        policy = self.eager.policy
        assert self.plan is not None
        update = self.plan.update
        one_step, n_step = batch.one_step, batch.n_step
        same = n_step.rewards is one_step.rewards
        update.batch, update.has_successor = len(one_step.actions), place(batch.has_successor)
        update.ends, update.last_ends, update.discounts = place(one_step.dones), place(n_step.dones), place(n_step.discounts)
        update.states = update.next_states = update.last_states = None
        if update.world_model != WorldModel.GAUSSIAN:
            update.states = place(one_step.observations, th.int64) if isinstance(one_step.observations, th.Tensor) else None
            update.next_states = place(one_step.next_observations, th.int64)
        if policy.n_states is not None and update.world_model == WorldModel.CATEGORICAL:
            update.raw = update.raw_target = update.next_raw = update.last_raw = None
            update.last_states = None if same else place(n_step.next_observations, th.int64)
            return None
        if policy.reads_vectors:  # Of which nothing is extracted: some calls less
            alive += (parts := [one_step.observations, one_step.next_observations, n_step.next_observations])
            update.raw, update.next_raw, update.last_raw = map(place, parts)
            update.raw_target, update.last_raw = update.raw, None if same else update.last_raw
            return one_step.observations  # type: ignore[return-value]
        target = policy.features_extractor_target
        with th.no_grad():
            next_raw = policy.extract_features(one_step.next_observations, target)
            raw_target = None
            if c.learns_world_model and not policy.extracts_nothing:
                raw_target = policy.extract_features(one_step.observations, target)
        raw = policy.extract_features(one_step.observations, policy.features_extractor)
        if policy.extracts_nothing:
            raw_target = raw
        last_raw = None
        if not same:
            with th.no_grad():
                last_raw = policy.extract_features(n_step.next_observations, target)
        extracted = [raw, next_raw, raw_target, last_raw]
        for part in extracted:
            if part is not None:
                check_features(policy, part, update.batch, update.n_features)
        alive += extracted
        update.raw, update.next_raw, update.raw_target = place(raw.detach()), place(next_raw), place(raw_target)
        update.last_raw = place(last_raw)
        return raw

    def _act(self, batch: Batch, place: Any, alive: list[Any]) -> None:
        """
        :param batch: transitions
        :param place: where a tensor lies
        :param alive: what has to live until the step is done
        """
        policy = self.eager.policy
        assert self.plan is not None
        update, actions = self.plan.update, batch.one_step.actions
        if policy.action_model.reads_actions:
            update.actions = place(actions)
        else:
            update.choices = place(actions, th.int64)
        prior = batch.log_habit_prior
        update.log_prior = None
        if isinstance(prior, th.Tensor):
            alive.append(prior := prior.expand(update.batch, 1, -1).contiguous())
            update.log_prior = place(prior)

    def _predict(self, batch: Batch, c: Coefficients, raw: th.Tensor | None, place: Any, alive: list[Any]) -> None:
        """
        Draw the ensemble's bootstrap weights, and ask a world model that counts.

        :param batch: transitions
        :param c: numbers of the step
        :param raw: features of s as extracted
        :param place: where a tensor lies
        :param alive: what has to live until the step is done
        """
        policy = self.eager.policy
        assert self.plan is not None
        update = self.plan.update
        if update.world_model != WorldModel.GIVEN:
            if c.learns_world_model:
                weights = policy.bootstrap_weights(update.batch)
                if isinstance(weights, th.Tensor):
                    alive.append(weights := weights.expand(policy.world_model.ensemble_size, update.batch, 1))
                update.bootstrap_weights = place(weights)
            return
        with th.no_grad():
            assert raw is not None
            belief, outcome = Belief(raw, raw), batch.one_step.next_observations.long().reshape(-1, 1)  # type: ignore[union-attr]
            if c.learns_world_model:
                prediction = policy.world_model.predict(belief, policy.encode(batch.one_step.actions))
                losses, samples = world_model_losses(policy, batch, prediction, outcome)
                update.transition_loss = losses["transition_loss"].item()
                alive += samples.values()
                update.error, update.gain = place(samples["prediction_error"]), place(samples["information_gain"])
            if "epistemic" in policy.term_names:
                same = batch.n_step.rewards is batch.one_step.rewards
                later = [batch.one_step, *([] if same else [batch.n_step])]
                nexts = th.cat([policy.extract_features(part.next_observations) for part in later])
                gains = [policy.world_model.gains_of_actions(Belief(part, part)) for part in (raw, nexts)]
                alive += gains
                update.known, update.known_next = map(place, gains)

    def _weigh(self, batch: Batch, c: Coefficients, place: Any, alive: list[Any]) -> None:
        """
        Draw the noise of the policy at the next states, and let the terms of the EFE say what they cost, in the order of the
        eager step.

        :param batch: transitions
        :param c: numbers of the step
        :param place: where a tensor lies
        :param alive: what has to live until the step is done
        """
        policy, plan = self.eager.policy, self.plan
        assert plan is not None
        update, one_step = plan.update, batch.one_step
        if policy.action_model.reads_actions:
            n_next = update.batch * (1 if batch.n_step.rewards is one_step.rewards else 2)
            alive.append(noise := th.randn(n_next, update.n_actions))
            update.next_noise = noise.data_ptr()
        terms = [*policy.terms.values()]
        transition = self._transition(batch, terms)
        for head, term, source, weight in zip(plan.heads, terms, plan.sources, c.head_weights.tolist(), strict=True):
            head.weight, head.discount = weight, c.gamma if term.discount is None else term.discount
            # Novelty is a negative cost
            head.sign = -term.sign if source == Source.NOVELTY else term.sign
            if source != Source.COST:
                continue
            with th.no_grad():
                alive.append(cost := term.checked_cost(transition))
            head.cost = place(cost)
        update.pessimism, update.target_entropy = policy.pessimism.item(), c.target_entropy.item()
        update.bootstrap_entropy, update.precision_learns = c.bootstrap_entropy, c.learns_precision
        update.transitions_learn, update.policy_learns = c.learns_world_model, c.learns_policy

    def _transition(self, batch: Batch, terms: list[Any]) -> Transition:
        """
        :param batch: transitions
        :param terms: of the EFE
        :return: what those read that are asked for their cost, which is no prediction
        """
        one_step, actions = batch.one_step, batch.one_step.actions
        assert self.plan is not None
        if any(
            source == Source.COST and not isinstance(t, PreferenceTerm)
            for source, t in zip(self.plan.sources, terms, strict=True)
        ):
            actions = self.eager.policy.encode(actions)
        return Transition(
            *(one_step.observations, actions, one_step.next_observations, one_step.rewards, one_step.dones),
            *(batch.log_preference, batch.has_successor, None, None),
        )

    def _learn_by_torch(self, evaluated: list[tuple[Any, th.Tensor]]) -> None:
        """
        :param evaluated: what torch evaluated, each with the gradient of the whole loss with respect to it
        """
        plan = self.plan
        assert plan is not None
        learned, found = plan.learned_by_torch, dict[int, th.Tensor | None]()
        if evaluated:
            outputs, gradients = zip(*evaluated, strict=True)
            found = dict(enumerate(th.autograd.grad(outputs, learned, gradients, allow_unused=True)))
        for i, parameter in enumerate(learned):
            gradient = found.get(i)
            row = plan.tensors[plan.first_by_torch + i]
            row.group = Group.FROZEN if gradient is None else Group.VALUES
            parameter.grad = None if gradient is None else gradient.contiguous()
            row.gradient = None if parameter.grad is None else parameter.grad.data_ptr()

    def _optimize(self, c: Coefficients, lib: ctypes.CDLL) -> None:
        """
        :param c: numbers of the step
        :param lib: the library
        """
        plan, policy = self.plan, self.eager.policy
        assert plan is not None
        optimize, learns_model = plan.optimize, c.learns_world_model and policy.world_model.net is not None
        learns_precision = c.learns_policy and c.learns_precision and policy.log_precision.requires_grad
        optimize.learns[:] = 1, c.learns_policy, learns_model, learns_precision, 0
        optimize.max_norm = float("inf") if c.max_grad_norm is None else c.max_grad_norm
        optimize.tau, optimize.averaging_rate = c.tau or 0.0, c.averaging_rate
        lib.optimize(ctypes.byref(optimize))
        averaged, followed = plan.kept
        with th.no_grad():
            for net, follower in averaged if c.tau is None else (*averaged, *followed):
                for buffer, copied in zip(net.buffers(), follower.buffers(), strict=True):
                    copied.copy_(buffer)
