// The losses of one gradient step and their gradients, worked out by hand. What depends on the kind of actions is in
// categorical_actions.h and gaussian_actions.h.
#ifndef SB3_DAI_STEP_H
#define SB3_DAI_STEP_H

#include "critics.h"
#include "filter.h"
#include "world_model.h"

namespace {

// Why there are no gradients
enum Outcome : int { DONE, NO_SUCH_ACTION, NO_SUCH_STATE, NOT_FINITE };

bool states_exist(const Update& u) {
  const auto exist = [&](const int64_t* states, int64_t n_states) {
    return !states || std::all_of(states, states + u.batch, [&](int64_t s) { return s >= 0 && s < n_states; });
  };
  if (u.world_model == CATEGORICAL && !exist(u.next_states, u.transition.sizes[u.transition.n_layers])) return false;
  if (u.raw || u.inputs || u.filter.n_windows) return true;
  return exist(u.states, u.n_features) && exist(u.next_states, u.n_features) && exist(u.last_states, u.n_features);
}

// Terms of which the others are known, and the gradient of an automatic precision. Returns whether all are finite
bool sum_up(const Step& s) {
  const Update& u = s.u;
  const float divergence = s.divergences / u.batch, entropy = s.entropies / u.batch;
  float loss = s.value_loss;
  if (u.transitions_learn) loss += s.transition_loss + s.reward_loss;
  if (u.policy_learns) {
    loss += divergence * s.unit;
    log(u, POLICY_LOSS, divergence * s.unit);
    log(u, ENTROPY, entropy);
    if (u.transitions_learn) log(u, VFE, s.mean_error + divergence);
  }
  if (u.policy_learns && u.precision_learns) {
    *u.of_log_precision = u.target_entropy - entropy;
    loss += *u.log_precision * *u.of_log_precision;
    log(u, PRECISION_LOSS, *u.log_precision * *u.of_log_precision);
  }
  log(u, LOSS, loss);
  log(u, PRECISION, precision(u));
  return std::isfinite(loss);
}

// Actions: Categorical or Gaussian
template <typename Actions>
Outcome gradients(const Update& u) {
  if (!Actions::exist(u)) return NO_SUCH_ACTION;
  if (!states_exist(u)) return NO_SUCH_STATE;
  static thread_local Pool pool;
  pool.start();
  Step s{u, pool};
  static thread_local Inferred inferred;
  const bool remembers = u.inputs || u.filter.n_windows;
  if (u.filter.n_windows)
    infer(s, inferred);
  else
    observe(s);
  Actions::encode(s);
  s.known_unit = peak(u);  // That of before this step
  if (u.transitions_learn) predict_outcome(s);
  if (u.transitions_learn && u.filter.n_windows) predict_reward(s, inferred);
  Actions::next_efe(s);
  bootstrap(s);
  // Critics of continuous actions read what the world model does
  evaluate<Actions>(s, Actions::READ_BY_CRITICS ? s.pairs : s.features);
  // In units of G if the precision moves: the policy's gradient would grow with it, and clipping shrink the others'
  s.unit = u.precision_learns ? 1.0f / precision(u) : 1.0f;
  if (u.policy_learns) Actions::divergence(s);
  if (!sum_up(s)) return NOT_FINITE;
  const int64_t n_value = u.value.sizes[0], n_pairs = remembers ? u.transition.sizes[0] : 0;
  float* of_inputs = u.filter.n_windows ? s.pool.take(u.batch * u.n_inputs) : u.of_raw;
  float* of_value = of_inputs ? s.pool.take(u.batch * n_value) : nullptr;
  float* of_policy = u.of_raw && u.policy_learns ? s.pool.take(u.batch * u.n_inputs) : nullptr;
  float* of_pairs = remembers && u.transitions_learn ? s.pool.take(u.batch * n_pairs) : nullptr;
  if (u.transitions_learn && u.world_model != GIVEN) backward(s.transition, s.of_transition, u.transition.gradients, of_pairs);
  backward(s.value, s.of_efe, u.value.gradients, of_value);
  if (u.policy_learns) backward(s.policy, s.of_policy, u.policy.gradients, of_policy);
  if (of_inputs) shape_inputs(s, of_value, n_value, of_policy, of_pairs, n_pairs, of_inputs);
  if (u.filter.n_windows)
    shape_filter(s, inferred, of_inputs);
  else if (of_inputs && !u.inputs && u.normalizes)
    denormalized(u.features_norm, s.raw, u.batch, u.n_features, of_inputs);
  return DONE;
}

}  // namespace

#endif
