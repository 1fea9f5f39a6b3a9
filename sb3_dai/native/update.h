// One gradient step of an agent that sees vectors of numbers: what DAI._update does, by the equations of free_energy.py with
// their gradients worked out. What depends on the kind of actions is in choice.h and gaussian.h.
#ifndef SB3_DAI_UPDATE_H
#define SB3_DAI_UPDATE_H

#include <algorithm>
#include <cmath>
#include <limits>

#include "perceptrons.h"

#if defined(VECTOR_MATH) && !defined(__clang__)
// libmvec of glibc has them for whole vectors as well
extern "C" {
__attribute__((__simd__("notinbranch"))) float expf(float) noexcept;
__attribute__((__simd__("notinbranch"))) float logf(float) noexcept;
}
#endif

namespace {

constexpr float MIN_LOG_VAR = -10.0f, MAX_LOG_VAR = 2.0f, LOG_2_PI = 1.8378770664093453f;
constexpr int64_t EXTRINSIC = 0, EPISTEMIC = 1, PREDICTION_ERROR = 2, N_HEADS = 3;

struct Net {
  int64_t n_members, n_layers;
  const int64_t* sizes;
  const Layer *layers, *gradients;
};

// networks.RunningNorm
struct Norm {
  float *mean, *var, *n_batches, horizon, clip;
};

// networks.RunningMean
struct Mean {
  float *mean, *n_batches, horizon;
};

// Parameters that learn together, their gradients and what Adam keeps of them
struct Adam {
  float *nets, *gradients, *mean, *square, *step;
  int64_t size, n_steps;
};

struct Update {
  Net transition, policy, value, value_target;
  Norm features_norm, change_norm;
  Mean epistemic_mean, gain_mean;
  float* gain_peak;
  Adam always, policies, transitions, precision;  // Of the nets one after the other in memory, gradients of the next as well
  float *target, *average;
  int64_t n_target, n_average;  // of what always learns and the policies, and the last of these
  int64_t batch, n_features, n_actions;
  int64_t normalizes, precision_learns, transitions_learn, policy_learns, nets_learn;
  // Of the agent
  float gamma, epistemic_gamma, tau, max_norm, preference_weight, bootstrap_entropy, pessimism, surprise_sign, resolution, eps;
  double beta1, beta2, adam_eps, learning_rate;
  float averaging_rate, target_entropy;
  const float *head_weights, *log_prior;
  // Of the batch, (batch, n_features) and (batch,); n-step rewards are in log_preference
  const float *observations, *next_observations, *has_successor;
  const int64_t* choices;                     // Discrete actions, or null
  const float *actions, *next_noise, *noise;  // Box actions and what theirs are drawn with, (..., n_actions), or null
  const float *ends, *last_observations, *last_ends, *discounts, *log_preference;
  // What is logged: losses and means, if they are found in this step
  float *to_loss, *to_transition_loss, *to_value_loss, *to_policy_loss, *to_precision_loss, *to_precision;
  float* to_epistemic_weight;
  float *to_vfe, *to_prediction_error, *to_information_gain, *to_extrinsic_value, *to_epistemic_value, *to_entropy;
};

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
  // DAIPolicy.observe, and the features with the coded actions
  float *features, *next_features, *outcome, *pairs;
  // The world model's outputs, their gradient, and what they say of each row
  Nets transition;
  float *of_transition, *error, *gain;
  double mean_gain;
  // Parts of G and the entropy of the policy at next states, (n_next, N_HEADS + 1), and what the value net learns
  float *next_efe, *targets;
  Nets value, policy;
  float *efe, *of_efe, *of_policy;
  float unit;  // of the policy's loss, in which it learns
  double divergences, entropies;
};

void update(const Norm& norm, const float* rows, int64_t n_rows, int64_t size) {
  const float rate = 1.0f / std::min(*norm.n_batches += 1.0f, norm.horizon);
  for (int64_t i = 0; i < size; i++) {
    // As in RunningNorm: squares must stay finite
    const auto at = [&](int64_t b) { return std::clamp(rows[b * size + i], -1e18f, 1e18f); };
    double sum = 0.0, squares = 0.0;
    for (int64_t b = 0; b < n_rows; b++) sum += at(b);
    const double mean = sum / n_rows, moved = mean - norm.mean[i];
    for (int64_t b = 0; b < n_rows; b++) squares += (at(b) - mean) * (at(b) - mean);
    norm.var[i] += rate * (squares / n_rows + moved * moved * (1.0 - rate) - norm.var[i]);
    norm.mean[i] += rate * moved;
  }
}

void normalized(const Norm& norm, bool center, const float* rows, int64_t n_rows, int64_t size, float* out) {
  for (int64_t i = 0; i < size; i++) {
    const float mean = center ? norm.mean[i] : 0.0f, scale = 1.0f / std::sqrt(norm.var[i] + 1e-8f);
    for (int64_t b = 0; b < n_rows; b++)
      out[b * size + i] = std::clamp((rows[b * size + i] - mean) * scale, -norm.clip, norm.clip);
  }
}

float update(const Mean& running, float mean) {
  *running.mean += (mean - *running.mean) / std::min(*running.n_batches += 1.0f, running.horizon);
  return *running.mean;
}

// log(1 + e^x) and its derivative
inline void soft(float x, float& plus, float& slope) {
  const float small = expf(-std::abs(x));
  plus = std::max(x, 0.0f) + logf(1.0f + small);
  slope = (x < 0.0f ? small : 1.0f) / (1.0f + small);
}

float higher(float one, float other) { return one > other || std::isnan(one) ? one : other; }

// free_energy.pessimistic
float pessimistic(const Update& u, float worst, float sum) {
  const float average = sum / u.value.n_members;
  return u.pessimism < 0.5f ? average + u.pessimism * (worst - average) : worst - (1.0f - u.pessimism) * (worst - average);
}

// free_energy.judged_parts of one part at one place, whose value nets are apart
float judged_part(const Update& u, const float* first, int64_t apart, int64_t part) {
  float worst = *first, sum = *first;
  for (int64_t k = 1; k < u.value.n_members; k++) {
    const float other = first[k * apart];
    worst = higher(other, worst);
    sum += other;
  }
  return part == EPISTEMIC ? sum / u.value.n_members : pessimistic(u, worst, sum);
}

// free_energy.judged_efe at one place, whose value nets and parts are apart, and the first of the worst of the nets
float judged_efe(const Update& u, const float* first, int64_t apart, int64_t parts_apart, int64_t& worst_of) {
  float worst = 0.0f, sum = 0.0f, epistemic = 0.0f;
  for (int64_t k = 0; k < u.value.n_members; k++) {
    const float* parts = first + k * apart;
    float others = 0.0f;
    for (int64_t part = 0; part < N_HEADS; part++)
      (part == EPISTEMIC ? epistemic : others) += parts[part * parts_apart] * u.head_weights[part];
    if (k == 0 || others > worst) worst = others, worst_of = k;
    sum += others;  // NaN if one of them is
  }
  return pessimistic(u, worst, sum) + epistemic / u.value.n_members;
}

float precision(const Update& u) { return std::exp(*u.precision.nets); }

// Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1)
void learn(const Update& u, const Adam& adam, float scale) {
  for (int64_t i = 0; i < adam.n_steps; i++) adam.step[i] += 1.0f;
  const double of_mean = u.learning_rate / (1.0 - std::pow(u.beta1, adam.step[0]));
  const float rate = of_mean, of_root = 1.0 / std::sqrt(1.0 - std::pow(u.beta2, adam.step[0]));
  const float beta1 = u.beta1, rest1 = 1.0 - u.beta1, beta2 = u.beta2, rest2 = 1.0 - u.beta2, eps = u.adam_eps;
  if (scale != 1.0f)  // What parameter.grad shows
#pragma omp simd
    for (int64_t i = 0; i < adam.size; i++) adam.gradients[i] *= scale;
#pragma omp simd
  for (int64_t i = 0; i < adam.size; i++) {
    const float gradient = adam.gradients[i];
    adam.mean[i] = adam.mean[i] * beta1 + gradient * rest1;
    adam.square[i] = adam.square[i] * beta2 + gradient * gradient * rest2;
    adam.nets[i] -= rate * adam.mean[i] / (std::sqrt(adam.square[i]) * of_root + eps);
  }
}

float square_sum(const float* numbers, int64_t size) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; i++) sum += numbers[i] * numbers[i];
  return sum;
}

void follow(float* copy, const float* newest, int64_t size, float rate) {
#pragma omp simd
  for (int64_t i = 0; i < size; i++) copy[i] += rate * (newest[i] - copy[i]);
}

int64_t kept_size(const Net& net, int64_t batch) {
  int64_t size = 0;
  for (int64_t l = 0; l + 1 < net.n_layers; l++) size += net.layers[l].gain ? net.sizes[l + 1] + 1 : net.sizes[l + 1];
  return net.n_members * batch * size;
}

Nets nets(const Net& net, int64_t n_rows, const float* inputs, float* kept) {
  return {net.n_members, n_rows, net.n_layers, net.sizes, net.layers, inputs, kept};
}

// DAIPolicy.observe: the running statistics, and what the world model is to predict
void observe(Step& s) {
  const Update& u = s.u;
  const int64_t batch = u.batch, n_features = u.n_features;
  const bool two_steps = u.last_observations != u.next_observations;
  s.n_next = two_steps ? 2 * batch : batch;
  s.outcome = s.pool.take(batch * n_features);
  s.features = s.pool.take(batch * n_features);
  s.next_features = s.pool.take(s.n_next * n_features);
  update(u.features_norm, u.observations, batch, n_features);
  for (int64_t b = 0; b < batch; b++)
    for (int64_t i = b * n_features; i < (b + 1) * n_features; i++)
      s.outcome[i] = (u.next_observations[i] - u.observations[i]) * (u.has_successor ? u.has_successor[b] : 1.0f);
  update(u.change_norm, s.outcome, batch, n_features);
  normalized(u.change_norm, false, s.outcome, batch, n_features, s.outcome);
  const auto scaled = [&](const float* rows, float* out) {
    if (u.normalizes)
      normalized(u.features_norm, true, rows, batch, n_features, out);
    else
      std::copy_n(rows, batch * n_features, out);
  };
  scaled(u.observations, s.features);
  scaled(u.next_observations, s.next_features);
  if (two_steps) scaled(u.last_observations, s.next_features + batch * n_features);
}

// The world model: gaussian_nll with smooth bounds of the variance, prediction_error and information_gain
void predict(Step& s) {
  const Update& u = s.u;
  const int64_t batch = u.batch, n_features = u.n_features, n_outputs = 2 * n_features, n_members = u.transition.n_members;
  const int64_t n_predicted = n_members * batch * n_features;
  float *outputs = s.pool.take(2 * n_predicted), *gradient = s.of_transition = s.pool.take(2 * n_predicted);
  float *error = s.error = s.pool.take(batch), *gain = s.gain = s.pool.take(batch);
  s.transition = nets(u.transition, batch, s.pairs, s.pool.take(kept_size(u.transition, batch)));
  forward(s.transition, u.eps, outputs);
  const float share = 1.0f / (n_members * batch);
  float *log_var = s.pool.take(n_predicted), *inverse_var = s.pool.take(n_predicted), *slope = s.pool.take(n_predicted);
  for (int64_t row = 0; row < n_members * batch; row++)
    std::copy_n(outputs + row * n_outputs + n_features, n_features, log_var + row * n_features);
#pragma omp simd
  for (int64_t i = 0; i < n_predicted; i++) {
    float upper, of_upper, lower, of_lower;
    soft(MAX_LOG_VAR - log_var[i], upper, of_upper);
    soft(MAX_LOG_VAR - upper - MIN_LOG_VAR, lower, of_lower);
    log_var[i] = MIN_LOG_VAR + lower;
    inverse_var[i] = expf(-log_var[i]);
    slope[i] = of_upper * of_lower;
  }
  double transition_loss = 0.0, mean_gain = 0.0;
  for (int64_t b = 0; b < batch; b++) {
    const float weight = u.has_successor ? u.has_successor[b] : 1.0f;
    float all = 0.0f;
    error[b] = gain[b] = 0.0f;
    for (int64_t i = 0; i < n_features; i++) {
      const float observed = s.outcome[b * n_features + i];
      float sum = 0.0f, apart = 0.0f, squares = 0.0f, noise = 0.0f;
      for (int64_t k = 0; k < n_members; k++) {
        const int64_t row = k * batch + b, at = row * n_outputs + i, j = row * n_features + i;
        const float mean = outputs[at], missed = mean - observed, square = missed * missed * inverse_var[j];
        all += 0.5f * (log_var[j] + square + LOG_2_PI);
        gradient[at] = missed * inverse_var[j] * share * weight / n_features;
        gradient[at + n_features] = 0.5f * (1.0f - square) * slope[j] * share * weight / n_features;
        sum += mean;
        apart += mean - outputs[b * n_outputs + i];
        noise += 1.0f / inverse_var[j];
      }
      // As in ensemble_variance: exactly 0 where members agree
      const float mean = sum / n_members, center = apart / n_members;
      for (int64_t k = 0; k < n_members; k++) {
        const float off = outputs[(k * batch + b) * n_outputs + i] - outputs[b * n_outputs + i] - center;
        squares += off * off;
      }
      error[b] += (mean - observed) * (mean - observed);
      gain[b] += 0.5f * std::log1p(squares / n_members / (noise / n_members + u.resolution * u.resolution));
    }
    error[b] = error[b] / n_features * weight;
    transition_loss += all / n_features * weight;
    mean_gain += gain[b];
  }
  *u.to_transition_loss = transition_loss * share;
  *u.to_information_gain = s.mean_gain = mean_gain / batch;
}

// DAI._efe_target, from next_efe: the extrinsic part, and the others if the world model learns
void bootstrap(Step& s) {
  const Update& u = s.u;
  const int64_t batch = u.batch;
  const float entropy_weight = u.bootstrap_entropy / precision(u);
  s.targets = s.pool.take(batch * N_HEADS);
  double extrinsic = 0.0;
  for (int64_t b = 0; b < batch; b++) {
    const float* last = s.next_efe + (s.n_next - batch + b) * (N_HEADS + 1);
    const float soft_efe = last[EXTRINSIC] - entropy_weight * last[N_HEADS];
    const float discount = u.discounts ? u.discounts[b] : u.gamma;
    float* target = s.targets + b * N_HEADS;
    target[EXTRINSIC] = -u.preference_weight * u.log_preference[b] + discount * (1.0f - u.last_ends[b]) * soft_efe;
    extrinsic -= target[EXTRINSIC];
  }
  *u.to_extrinsic_value = extrinsic / batch;
  if (!u.transitions_learn) return;
  double next_epistemic = 0.0, epistemic = 0.0, mean_error = 0.0;
  for (int64_t b = 0; b < batch; b++) next_epistemic += s.next_efe[b * (N_HEADS + 1) + EPISTEMIC];
  const float elsewhere = update(u.epistemic_mean, next_epistemic / batch);
  *u.gain_peak = higher(update(u.gain_mean, s.mean_gain), *u.gain_peak);
  const float peak = *u.gain_peak > 0.0f ? *u.gain_peak : std::numeric_limits<float>::infinity();
  for (int64_t b = 0; b < batch; b++) {
    const float* next = s.next_efe + b * (N_HEADS + 1);
    float* target = s.targets + b * N_HEADS;
    target[EPISTEMIC] = -s.gain[b] / peak + u.epistemic_gamma * (next[EPISTEMIC] + u.ends[b] * (elsewhere - next[EPISTEMIC]));
    target[PREDICTION_ERROR] = u.surprise_sign * s.error[b] + u.gamma * (1.0f - u.ends[b]) * next[PREDICTION_ERROR];
    epistemic -= target[EPISTEMIC];
    mean_error += s.error[b];
  }
  *u.to_epistemic_value = epistemic / batch;
  *u.to_prediction_error = mean_error / batch;
}

// The value net: mean squared errors of the action taken, each head's by its weight, of what was bootstrapped
void evaluate(Step& s, const float* inputs) {
  const Update& u = s.u;
  const int64_t batch = u.batch, width = u.value.sizes[u.value.n_layers], n_options = width / N_HEADS;
  const int64_t n_critics = u.value.n_members, n_efe = n_critics * width, n_known = u.transitions_learn ? N_HEADS : 1;
  s.value = nets(u.value, batch, inputs, s.pool.take(kept_size(u.value, batch)));
  float *efe = s.efe = s.pool.take(batch * n_efe), *of_efe = s.of_efe = s.pool.take(batch * n_efe);
  forward(s.value, u.eps, efe);
  std::fill_n(of_efe, batch * n_efe, 0.0f);
  double value_loss = 0.0;
  for (int64_t k = 0; k < n_critics; k++)
    for (int64_t b = 0; b < batch; b++)
      for (int64_t part = 0; part < n_known; part++) {
        const int64_t at = (k * batch + b) * width + part * n_options + (u.choices ? u.choices[b] : 0);
        const float missed = efe[at] - s.targets[b * N_HEADS + part];
        value_loss += u.head_weights[part] * missed * missed;
        of_efe[at] = 2.0f * u.head_weights[part] * missed / batch;
      }
  *u.to_value_loss = value_loss / batch;
}

// Terms of which the others are known. Returns whether all are finite
bool sum_up(const Step& s) {
  const Update& u = s.u;
  *u.to_precision = precision(u);
  *u.to_epistemic_weight = u.head_weights[EPISTEMIC];
  *u.to_loss = *u.to_value_loss;
  if (u.transitions_learn) *u.to_loss += *u.to_transition_loss;
  if (u.policy_learns) {
    *u.to_policy_loss = s.divergences / u.batch * s.unit;
    *u.to_entropy = s.entropies / u.batch;
    *u.to_loss += *u.to_policy_loss;
    if (u.transitions_learn) *u.to_vfe = *u.to_prediction_error + s.divergences / u.batch;
  }
  if (u.policy_learns && u.precision_learns) {
    *u.precision.gradients = u.target_entropy - *u.to_entropy;
    *u.to_precision_loss = *u.precision.nets * *u.precision.gradients;
    *u.to_loss += *u.to_precision_loss;
  }
  return std::isfinite(*u.to_loss);
}

// DAI._optimize
void learn(const Update& u) {
  const int64_t n_learned = u.always.size + (u.policy_learns ? u.policies.size : 0);
  const float norm = std::sqrt(square_sum(u.always.gradients, n_learned) +
                               (u.transitions_learn ? square_sum(u.transitions.gradients, u.transitions.size) : 0.0f));
  const float scale = std::min(u.max_norm / (norm + 1e-6f), 1.0f);
  learn(u, u.always, scale);
  if (u.policy_learns) learn(u, u.policies, scale);
  if (u.transitions_learn) learn(u, u.transitions, scale);
  if (u.policy_learns && u.precision_learns) learn(u, u.precision, 1.0f);
  follow(u.average, u.always.nets + u.n_target - u.n_average, u.n_average, u.averaging_rate);
  if (u.tau > 0.0f) follow(u.target, u.always.nets, u.n_target, u.tau);
}

// Actions: of choice.h or gaussian.h
template <typename Actions>
int step(const Update& u) {
  if (!Actions::exist(u)) return 1;
  static thread_local Pool pool;
  pool.start();
  Step s{u, pool};
  observe(s);
  Actions::encode(s);
  if (u.transitions_learn) predict(s);
  Actions::next_efe(s);
  bootstrap(s);
  evaluate(s, Actions::READ_BY_VALUE_NETS ? s.pairs : s.features);
  s.unit = u.precision_learns ? 1.0f / precision(u) : 1.0f;
  if (u.policy_learns) Actions::divergence(s);
  if (!sum_up(s)) return 0;  // The nets stay as they were
  if (u.transitions_learn) backward(s.transition, s.of_transition, u.transition.gradients, nullptr);
  backward(s.value, s.of_efe, u.value.gradients, nullptr);
  if (u.policy_learns) backward(s.policy, s.of_policy, u.policy.gradients, nullptr);
  if (u.nets_learn) learn(u);  // Else somebody wants the gradients alone
  return 0;
}

}  // namespace

#endif
