// A Gaussian that is squashed by tanh, and critics that read the action.
#ifndef SB3_DAI_GAUSSIAN_ACTIONS_H
#define SB3_DAI_GAUSSIAN_ACTIONS_H

#include "critics.h"

namespace {

// A sample of the policy: of each row and dimension the action, its distance from the mean before squashing, and whether the
// standard deviation is within its bounds; of each row the logarithm of the density
struct Sample {
  float *actions, *distance, *free, *log_prob;
};

struct Gaussian {
  static constexpr bool READ_BY_CRITICS = true;

  static bool exist(const Update&) { return true; }

  // Features beside actions, (n_rows, n_inputs + n_actions)
  static float* beside(const Step& s, const float* features, const float* actions, int64_t n_rows) {
    const int64_t n_inputs = s.u.n_inputs, n_actions = s.u.n_actions, n_pairs = n_inputs + n_actions;
    float* out = s.pool.take(n_rows * n_pairs);
    for (int64_t b = 0; b < n_rows; b++) {
      std::copy_n(features + b * n_inputs, n_inputs, out + b * n_pairs);
      std::copy_n(actions + b * n_actions, n_actions, out + b * n_pairs + n_inputs);
    }
    return out;
  }

  static void encode(Step& s) { s.pairs = beside(s, s.features, s.u.actions, s.u.batch); }

  static void complete(const Step&, float*, int64_t, const float*) {}

  static float taken(const Update&, const float* row, int64_t, int64_t h) { return row[h]; }

  static void of_taken(const Update&, float* row, int64_t, int64_t h, float gradient) { row[h] = gradient; }

  // outputs: means and logarithms of standard deviations, (n_rows, 2 * n_actions)
  static Sample draw(const Step& s, const float* outputs, const float* noise, int64_t n_rows) {
    const int64_t n_actions = s.u.n_actions, size = n_rows * n_actions;
    float *means = s.pool.take(size), *log_stds = s.pool.take(size), *terms = s.pool.take(size);
    const Sample sample = {s.pool.take(size), s.pool.take(size), s.pool.take(size), s.pool.take(n_rows)};
    for (int64_t b = 0; b < n_rows; b++) {
      std::copy_n(outputs + 2 * b * n_actions, n_actions, means + b * n_actions);
      std::copy_n(outputs + (2 * b + 1) * n_actions, n_actions, log_stds + b * n_actions);
    }
    const float lowest = s.u.min_log_std, highest = s.u.max_log_std;
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
      const float mean = means[i], log_std = std::clamp(log_stds[i], lowest, highest);
      const float distance = expf(log_std) * noise[i], raw = mean + distance;
      const float off = (raw - mean) * expf(-log_std);  // The noise, but where a large mean rounds it away
      float plus, slope;
      soft(-2.0f * raw, plus, slope);
      sample.actions[i] = 1.0f - 2.0f * slope;
      sample.distance[i] = distance;
      sample.free[i] = log_stds[i] == log_std ? 1.0f : 0.0f;
      terms[i] = -0.5f * (off * off + LOG_2_PI) - log_std - 2.0f * (LOG_2 - raw - plus);
    }
    for (int64_t b = 0; b < n_rows; b++) {
      sample.log_prob[b] = 0.0f;
      for (int64_t a = 0; a < n_actions; a++) sample.log_prob[b] += terms[b * n_actions + a];
    }
    return sample;
  }

  // Of each head the EFE of a sample at the next states, and the policy's entropy after them
  static void next_efe(Step& s) {
    const Update& u = s.u;
    const int64_t n_next = s.n_next, n_heads = u.n_heads;
    float *outputs = s.pool.take(2 * n_next * u.n_actions), *parts = s.pool.take(n_next * u.value.n_members * n_heads);
    s.next_efe = s.pool.take(n_next * (n_heads + 1));
    forward(nets(u.policy, n_next, s.next_for_policy, nullptr), u.layer_norm_eps, outputs);
    const Sample sample = draw(s, outputs, u.next_noise, n_next);
    const float* inputs = beside(s, s.next_features, sample.actions, n_next);
    forward(nets(u.value_target, n_next, inputs, nullptr), u.layer_norm_eps, parts);
    for (int64_t b = 0; b < n_next; b++) {
      float* efe = s.next_efe + b * (n_heads + 1);
      for (int64_t h = 0; h < n_heads; h++)
        efe[h] = judged_part(u, parts + b * n_heads + h, n_next * n_heads, u.heads[h]);
      efe[n_heads] = -sample.log_prob[b];
    }
  }

  // sampled_divergence from the posterior under G, and its gradient along the sample
  static void divergence(Step& s) {
    const Update& u = s.u;
    const int64_t batch = u.batch, n_actions = u.n_actions, n_pairs = u.n_inputs + n_actions, n_heads = u.n_heads;
    const int64_t n_efe = batch * u.value.n_members * n_heads;
    float *outputs = s.pool.take(2 * batch * n_actions), *parts = s.pool.take(n_efe), *of_parts = s.pool.take(n_efe);
    float* of_inputs = s.pool.take(batch * n_pairs);
    s.of_policy = s.pool.take(2 * batch * n_actions);
    s.policy = nets(u.policy, batch, s.features, s.pool.take(kept_size(u.policy, batch)));
    forward(s.policy, u.layer_norm_eps, outputs);
    const Sample sample = draw(s, outputs, u.noise, batch);
    const float* inputs = beside(s, s.features, sample.actions, batch);
    const Nets value = nets(u.value, batch, inputs, s.pool.take(kept_size(u.value, batch)));
    forward(value, u.layer_norm_eps, parts);
    const float precise = precision(u), of_log_prob = s.unit / batch;
    for (int64_t b = 0; b < batch; b++) {
      int64_t worst_of;
      const float judged = judged_efe(u, parts + b * n_heads, batch * n_heads, 1, worst_of);
      s.divergences += sample.log_prob[b] + precise * judged;
      s.entropies -= sample.log_prob[b];
      of_judged_efe(u, worst_of, precise * of_log_prob, of_parts + b * n_heads, batch * n_heads);
    }
    backward(value, of_parts, nullptr, of_inputs);
    for (int64_t b = 0; b < batch; b++)
      for (int64_t a = 0; a < n_actions; a++) {
        const int64_t i = b * n_actions + a;
        const float action = sample.actions[i], of_action = of_inputs[b * n_pairs + u.n_inputs + a];
        const float of_mean = of_action * (1.0f - action * action) + 2.0f * action * of_log_prob;
        float* of_outputs = s.of_policy + 2 * b * n_actions + a;
        of_outputs[0] = of_mean;
        of_outputs[n_actions] = sample.free[i] * (of_mean * sample.distance[i] - of_log_prob);
      }
  }
};

}  // namespace

#endif
