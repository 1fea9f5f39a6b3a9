// What a gradient step finds out on its way, and its beginning: features in units of their running standard deviation, and
// what the world model is to predict.
#ifndef SB3_DAI_OBSERVE_H
#define SB3_DAI_OBSERVE_H

#include "statistics.h"

namespace {

// Memory of a thread's steps, each of which asks for the same
class Pool {
 public:
  void start() { n_taken = 0; }

  float* take(int64_t size) {
    if (n_taken == blocks.size()) blocks.emplace_back();
    return aligned(blocks[n_taken++], size);
  }

 private:
  std::vector<std::vector<float>> blocks;
  size_t n_taken = 0;
};

// What a step has found
struct Step {
  const Update& u;
  Pool& pool;
  int64_t n_next;  // rows of next states, and of those after n steps
  // Raw and scaled features, what is to be predicted of them, and what the transition net reads: features with coded actions,
  // or the numbers of pairs of a state and an action
  const float *raw, *raw_target, *next_raw, *last_raw;
  // What the nets read: scaled features, and beliefs if there are any
  const float *features, *next_features, *next_for_policy, *outcome;
  float* pairs;
  const int64_t* pair_numbers;
  // The world model's outputs' gradient, and what they say of each row
  Nets transition;
  float *of_transition, *error, *gain;
  double transition_loss, reward_loss, mean_gain;
  float known_unit;  // of novelty that is known of all actions
  // Terms of G and the entropy of the policy at next states, (n_next, n_heads + 1), and what the value net learns
  float *next_efe, *targets;
  Nets value, policy;
  float *efe, *of_efe, *of_policy;
  float unit;  // of the policy's loss, in which it learns
  double value_loss, mean_error, divergences, entropies;
};

void log(const Update& u, int64_t term, float value) {
  if (u.places[term] >= 0) u.terms[u.places[term]] = value;
}

float successor(const Update& u, int64_t b) { return u.has_successor ? u.has_successor[b] : 1.0f; }

float precision(const Update& u) { return std::exp(*u.log_precision); }

int64_t kept_size(const Net& net, int64_t batch) {
  int64_t size = 0;
  for (int64_t l = 0; l + 1 < net.n_layers; l++) size += net.layers[l].gain ? net.sizes[l + 1] + 1 : net.sizes[l + 1];
  return net.n_members * batch * size;
}

Nets nets(const Net& net, int64_t n_rows, const float* inputs, float* kept, const int64_t* numbers = nullptr) {
  return {net.n_members, n_rows, net.n_layers, net.sizes, net.layers, inputs, net.numbered ? numbers : nullptr, kept};
}

// One-hot codes of numbered states
float* coded(const Step& s, const int64_t* states) {
  const int64_t n_features = s.u.n_features;
  float* codes = s.pool.take(s.u.batch * n_features);
  std::fill_n(codes, s.u.batch * n_features, 0.0f);
  for (int64_t b = 0; b < s.u.batch; b++) codes[b * n_features + states[b]] = 1.0f;
  return codes;
}

void extract(Step& s) {
  const Update& u = s.u;
  s.raw = u.raw ? u.raw : coded(s, u.states);
  s.raw_target = u.raw ? u.raw_target : s.raw;
  s.next_raw = u.next_raw ? u.next_raw : coded(s, u.next_states);
  s.last_raw = u.last_raw || !u.last_states ? u.last_raw : coded(s, u.last_states);
}

// DAIPolicy.observe: the running statistics, and what the world model is to predict
void observe(Step& s) {
  const Update& u = s.u;
  const int64_t batch = u.batch, n_features = u.n_features;
  if (u.inputs) {
    s.n_next = batch;
    s.features = u.inputs;
    s.next_features = u.next_inputs;
    s.next_for_policy = u.next_for_policy;
    s.outcome = u.outcome;
    return;
  }
  extract(s);
  s.n_next = s.last_raw ? 2 * batch : batch;
  float *features = s.pool.take(batch * n_features), *next_features = s.pool.take(s.n_next * n_features);
  s.features = features;
  s.next_features = s.next_for_policy = next_features;
  update(u.features_norm, s.raw_target ? s.raw_target : s.next_raw, batch, n_features);
  if (u.world_model == GAUSSIAN && s.raw_target) {
    float* change = s.pool.take(batch * n_features);
    s.outcome = change;
    for (int64_t b = 0; b < batch; b++)
      for (int64_t i = b * n_features; i < (b + 1) * n_features; i++)
        change[i] = (s.next_raw[i] - s.raw_target[i]) * successor(u, b);
    update(u.change_norm, change, batch, n_features);
    normalized(u.change_norm, false, change, batch, n_features, change);
  }
  const auto scaled = [&](const float* rows, float* out) {
    if (u.normalizes)
      normalized(u.features_norm, true, rows, batch, n_features, out);
    else
      std::copy_n(rows, batch * n_features, out);
  };
  scaled(s.raw, features);
  scaled(s.next_raw, next_features);
  if (s.last_raw) scaled(s.last_raw, next_features + batch * n_features);
}

// The gradient of what the nets read. Features learn from the value nets and the policy net, beliefs from the value nets
// and the world model
// of_value, of_pairs: of what these nets read, n_value and n_pairs numbers a row; of_policy, out: (batch, n_inputs). Null
// where a net does not learn
void shape_inputs(const Step& s, const float* of_value, int64_t n_value, const float* of_policy, const float* of_pairs,
                  int64_t n_pairs, float* out) {
  const Update& u = s.u;
  for (int64_t b = 0; b < u.batch; b++)
    for (int64_t i = 0; i < u.n_inputs; i++) {
      const int64_t at = b * u.n_inputs + i;
      out[at] = of_value[b * n_value + i];
      if (i < u.n_features)
        out[at] += of_policy ? of_policy[at] : 0.0f;
      else
        out[at] += of_pairs ? of_pairs[b * n_pairs + i] : 0.0f;
    }
}

}  // namespace

#endif
