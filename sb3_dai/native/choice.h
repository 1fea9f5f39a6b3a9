// One of some actions, each of which has an output of the policy net and of the value nets: actions.py of Discrete actions.
#ifndef SB3_DAI_CHOICE_H
#define SB3_DAI_CHOICE_H

#include "update.h"

namespace {

void log_softmax(const float* logits, int64_t size, float* out) {
  float highest = logits[0], sum = 0.0f;
  for (int64_t a = 1; a < size; a++) highest = logits[a] > highest || std::isnan(logits[a]) ? logits[a] : highest;
  for (int64_t a = 0; a < size; a++) sum += std::exp(logits[a] - highest);
  const float log_sum = highest + std::log(sum);
  for (int64_t a = 0; a < size; a++) out[a] = logits[a] - log_sum;
}

struct Choice {
  static constexpr bool READ_BY_VALUE_NETS = false;

  static bool exist(const Update& u) {
    return std::all_of(u.choices, u.choices + u.batch, [&](int64_t a) { return a >= 0 && a < u.n_actions; });
  }

  // The features beside one-hot codes
  static void encode(Step& s) {
    const int64_t n_features = s.u.n_features, n_actions = s.u.n_actions, n_inputs = n_features + n_actions;
    s.pairs = s.pool.take(s.u.batch * n_inputs);
    for (int64_t b = 0; b < s.u.batch; b++) {
      std::copy_n(s.features + b * n_features, n_features, s.pairs + b * n_inputs);
      for (int64_t a = 0; a < n_actions; a++) s.pairs[b * n_inputs + n_features + a] = s.u.choices[b] == a;
    }
  }

  // judged_parts of G under the policy, and the policy's entropy after them
  static void expected_efe(const Update& u, const float* log_prob, const float* table, int64_t n_rows, float* efe) {
    std::fill_n(efe, N_HEADS + 1, 0.0f);
    for (int64_t a = 0; a < u.n_actions; a++) {
      const float prob = std::exp(log_prob[a]);
      for (int64_t part = 0; part < N_HEADS; part++)
        efe[part] += prob * judged_part(u, table + part * u.n_actions + a, n_rows * N_HEADS * u.n_actions, part);
      efe[N_HEADS] -= prob * log_prob[a];
    }
  }

  // DAI._next_efe
  static void next_efe(Step& s) {
    const Update& u = s.u;
    const int64_t n_next = s.n_next, n_actions = u.n_actions, width = N_HEADS * n_actions;
    float* log_prob = s.pool.take(n_next * n_actions);
    float* table = s.pool.take(n_next * u.value.n_members * width);
    s.next_efe = s.pool.take(n_next * (N_HEADS + 1));
    forward(nets(u.policy, n_next, s.next_features, nullptr), u.eps, log_prob);
    forward(nets(u.value_target, n_next, s.next_features, nullptr), u.eps, table);
    for (int64_t b = 0; b < n_next; b++) {
      float* row = log_prob + b * n_actions;
      log_softmax(row, n_actions, row);
      expected_efe(u, row, table + b * width, n_next, s.next_efe + b * (N_HEADS + 1));
    }
  }

  // policy_divergence from the posterior under judged_efe
  static void divergence(Step& s) {
    const Update& u = s.u;
    const int64_t batch = u.batch, n_actions = u.n_actions, width = N_HEADS * n_actions;
    float *log_prob = s.pool.take(batch * n_actions), *log_target = s.pool.take(n_actions);
    s.of_policy = s.pool.take(batch * n_actions);
    s.policy = nets(u.policy, batch, s.features, s.pool.take(kept_size(u.policy, batch)));
    forward(s.policy, u.eps, log_prob);
    const float precise = precision(u);
    for (int64_t b = 0; b < batch; b++) {
      float *row = log_prob + b * n_actions, sum = 0.0f;
      log_softmax(row, n_actions, row);
      for (int64_t a = 0; a < n_actions; a++) {
        int64_t worst_of;
        const float judged = judged_efe(u, s.efe + b * width + a, batch * width, n_actions, worst_of);
        log_target[a] = (u.log_prior ? u.log_prior[b * n_actions + a] : 0.0f) - precise * judged;
      }
      log_softmax(log_target, n_actions, log_target);
      for (int64_t a = 0; a < n_actions; a++) {
        sum += std::exp(row[a]) * (row[a] - log_target[a]);
        s.entropies -= std::exp(row[a]) * row[a];
      }
      for (int64_t a = 0; a < n_actions; a++)
        s.of_policy[b * n_actions + a] = std::exp(row[a]) * (row[a] - log_target[a] - sum) * s.unit / batch;
      s.divergences += sum;
    }
  }
};

}  // namespace

#endif
