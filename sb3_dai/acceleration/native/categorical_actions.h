// Some independent choices between options, each of which has an output of the policy net and of the critics.
#ifndef SB3_DAI_CATEGORICAL_ACTIONS_H
#define SB3_DAI_CATEGORICAL_ACTIONS_H

#include "critics.h"

namespace {

struct Categorical {
  static constexpr bool READ_BY_CRITICS = false;

  static bool exist(const Update& u) {
    for (int64_t b = 0; b < u.batch; b++)
      for (int64_t c = 0; c < u.n_choices; c++) {
        const int64_t option = u.choices[b * u.n_choices + c];
        if (option < 0 || option >= u.options[c]) return false;
      }
    return true;
  }

  // What the transition net reads: numbers of pairs, or features beside one-hot codes
  static void encode(Step& s) {
    const Update& u = s.u;
    if (u.transition.numbered) {
      auto* numbers = reinterpret_cast<int64_t*>(s.pool.take(2 * u.batch));  // As large as two floats
      for (int64_t b = 0; b < u.batch; b++) numbers[b] = u.states[b] * u.n_actions + u.choices[b];
      s.pair_numbers = numbers;
      return;
    }
    const int64_t n_pairs = u.n_inputs + u.n_actions;
    s.pairs = s.pool.take(u.batch * n_pairs);
    for (int64_t b = 0; b < u.batch; b++) {
      float* row = std::copy_n(s.features + b * u.n_inputs, u.n_inputs, s.pairs + b * n_pairs);
      std::fill_n(row, u.n_actions, 0.0f);
      for (int64_t c = 0; c < u.n_choices; c++) row[c * u.n_options + u.choices[b * u.n_choices + c]] = 1.0f;
    }
  }

  // A table of G as it comes from the critics, with what is known of it. A constant may move from one choice to another
  // without a change of G. Where it sits must not matter to the comparison of critics option by option: let each choice have
  // the same mean
  static void complete(const Step& s, float* table, int64_t n_rows, const float* known) {
    const Update& u = s.u;
    const int64_t n_heads = u.n_heads, n_actions = u.n_actions;
    if (known)
      for (int64_t row = 0; row < u.value.n_members * n_rows; row++)
        for (int64_t h = 0; h < n_heads; h++) {
          if (u.heads[h].source != NOVELTY) continue;
          for (int64_t a = 0; a < n_actions; a++)
            table[(row * n_heads + h) * n_actions + a] += u.heads[h].sign * known[row % n_rows * n_actions + a] / s.known_unit;
        }
    if (u.n_choices == 1) return;
    float* means = s.pool.take(u.n_choices);
    for (int64_t row = 0; row < u.value.n_members * n_rows * n_heads; row++) {
      float *efe = table + row * n_actions, center = 0.0f;
      for (int64_t c = 0; c < u.n_choices; c++) {
        means[c] = 0.0f;
        for (int64_t o = 0; o < u.options[c]; o++) means[c] += efe[c * u.n_options + o];
        center += means[c] /= u.options[c];
      }
      center /= u.n_choices;
      for (int64_t c = 0; c < u.n_choices; c++)
        for (int64_t o = 0; o < u.n_options; o++) efe[c * u.n_options + o] += center - means[c];
    }
  }

  static float taken(const Update& u, const float* row, int64_t b, int64_t h) {
    float efe = 0.0f;
    for (int64_t c = 0; c < u.n_choices; c++) efe += row[h * u.n_actions + c * u.n_options + u.choices[b * u.n_choices + c]];
    return efe;
  }

  // That the choices have the same mean does not change their sum, nor its gradient
  static void of_taken(const Update& u, float* row, int64_t b, int64_t h, float gradient) {
    for (int64_t c = 0; c < u.n_choices; c++)
      row[h * u.n_actions + c * u.n_options + u.choices[b * u.n_choices + c]] = gradient;
  }

  // Of what a choice does not have
  static void mask(const Update& u, float* rows, int64_t n_rows, float value) {
    for (int64_t row = 0; row < n_rows; row++)
      for (int64_t c = 0; c < u.n_choices; c++) {
        float* first = rows + row * u.n_actions + c * u.n_options;
        std::fill(first + u.options[c], first + u.n_options, value);
      }
  }

  // The policy at some states
  static void posterior(Step& s, const Nets& policy, float* log_prob, float* prob) {
    const int64_t n_rows = policy.batch;
    forward(policy, s.u.layer_norm_eps, log_prob);
    mask(s.u, log_prob, n_rows, -s.u.never);
    log_softmax_of_any(log_prob, prob, s.pool.take(n_rows * s.u.n_choices), n_rows * s.u.n_choices, s.u.n_options);
  }

  // Of each head the expected EFE at the next states, and the policy's entropy after them
  static void next_efe(Step& s) {
    const Update& u = s.u;
    const int64_t n_next = s.n_next, n_actions = u.n_actions, n_heads = u.n_heads, width = n_heads * n_actions;
    const int64_t apart = n_next * width;
    float *log_prob = s.pool.take(n_next * n_actions), *prob = s.pool.take(n_next * n_actions);
    float* table = s.pool.take(u.value.n_members * apart);
    s.next_efe = s.pool.take(n_next * (n_heads + 1));
    posterior(s, nets(u.policy, n_next, s.next_for_policy, nullptr), log_prob, prob);
    forward(nets(u.value_target, n_next, s.next_features, nullptr), u.layer_norm_eps, table);
    complete(s, table, n_next, u.known_next);
    std::fill_n(s.next_efe, n_next * (n_heads + 1), 0.0f);
    for (int64_t b = 0; b < n_next; b++) {
      float* efe = s.next_efe + b * (n_heads + 1);
      const float *probs = prob + b * n_actions, *log_probs = log_prob + b * n_actions;
      for (int64_t h = 0; h < n_heads; h++)
        for (int64_t a = 0; a < n_actions; a++)
          efe[h] += probs[a] * judged_part(u, table + b * width + h * n_actions + a, apart, u.heads[h]);
      for (int64_t a = 0; a < n_actions; a++) efe[n_heads] -= probs[a] * log_probs[a];
    }
  }

  // policy_divergence from the posterior under G
  static void divergence(Step& s) {
    const Update& u = s.u;
    const int64_t batch = u.batch, n_actions = u.n_actions, width = u.n_heads * n_actions, size = batch * n_actions;
    float *log_prob = s.pool.take(size), *prob = s.pool.take(size), *log_target = s.pool.take(size);
    s.of_policy = s.pool.take(size);
    s.policy = nets(u.policy, batch, s.features, s.pool.take(kept_size(u.policy, batch)));
    posterior(s, s.policy, log_prob, prob);
    const float precise = precision(u);
    for (int64_t b = 0; b < batch; b++)
      for (int64_t a = 0; a < n_actions; a++) {
        int64_t worst_of;
        const bool possible = a % u.n_options < u.options[a / u.n_options];
        const float judged = possible ? judged_efe(u, s.efe + b * width + a, batch * width, n_actions, worst_of) : u.never;
        log_target[b * n_actions + a] = (u.log_prior ? u.log_prior[b * n_actions + a] : 0.0f) - precise * judged;
      }
    log_softmax_of_any(log_target, s.of_policy, s.pool.take(batch * u.n_choices), batch * u.n_choices, u.n_options);
    for (int64_t row = 0; row < batch * u.n_choices; row++) {
      const int64_t first = row * u.n_options;
      float divergence = 0.0f, entropy = 0.0f;
      for (int64_t a = first; a < first + u.n_options; a++) {
        divergence += prob[a] * (log_prob[a] - log_target[a]);
        entropy -= prob[a] * log_prob[a];
      }
      for (int64_t a = first; a < first + u.n_options; a++)
        s.of_policy[a] = prob[a] * (log_prob[a] - log_target[a] - divergence) * s.unit / batch;
      s.divergences += divergence;
      s.entropies += entropy;
    }
  }
};

}  // namespace

#endif
