// One gradient step of an agent that sees vectors of numbers and chooses one of some actions: what DAI._update does, by the
// equations of free_energy.py with their gradients worked out.
#ifndef SB3_DAI_UPDATE_H
#define SB3_DAI_UPDATE_H

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

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
constexpr int64_t ALIGNMENT = 16;  // of numbers, as vectors like it
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
  Adam always, transitions, precision;
  float *target, *average;
  int64_t n_target, n_average;  // the first of what always learns, and the last of these
  int64_t batch, n_features, n_actions;
  int64_t normalizes, precision_learns, transitions_learn, nets_learn;
  // Of the agent
  float gamma, epistemic_gamma, tau, max_norm, preference_weight, bootstrap_entropy, pessimism, surprise_sign, resolution, eps;
  double beta1, beta2, adam_eps, learning_rate;
  float averaging_rate, target_entropy;
  const float *head_weights, *log_prior;
  // Of the batch, (batch, n_features) and (batch,); n-step rewards are in log_preference
  const float *observations, *next_observations, *has_successor;
  const int64_t* actions;
  const float *ends, *last_observations, *last_ends, *discounts, *log_preference;
  // What is logged: losses and means
  float *to_loss, *to_transition_loss, *to_value_loss, *to_policy_loss, *to_precision_loss, *to_precision;
  float* to_epistemic_weight;
  float *to_vfe, *to_prediction_error, *to_information_gain, *to_extrinsic_value, *to_epistemic_value, *to_entropy;
};

float* take(std::vector<float>& pool, int64_t& used, int64_t size) {
  float* at = pool.data() + used;
  used += (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return at;
}

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

void log_softmax(const float* logits, int64_t size, float* out) {
  float highest = logits[0], sum = 0.0f;
  for (int64_t a = 1; a < size; a++) highest = logits[a] > highest || std::isnan(logits[a]) ? logits[a] : highest;
  for (int64_t a = 0; a < size; a++) sum += std::exp(logits[a] - highest);
  const float log_sum = highest + std::log(sum);
  for (int64_t a = 0; a < size; a++) out[a] = logits[a] - log_sum;
}

float higher(float one, float other) { return one > other || std::isnan(one) ? one : other; }

// free_energy.pessimistic
float pessimistic(const Update& u, float worst, float sum) {
  const float average = sum / u.value.n_members;
  return u.pessimism < 0.5f ? average + u.pessimism * (worst - average) : worst - (1.0f - u.pessimism) * (worst - average);
}

// judged_parts of G under the policy, and the policy's entropy after them
void expected_efe(const Update& u, const float* log_prob, const float* table, int64_t b, int64_t n_rows, float* efe) {
  const int64_t width = N_HEADS * u.n_actions, n_critics = u.value.n_members;
  std::fill_n(efe, N_HEADS + 1, 0.0f);
  for (int64_t a = 0; a < u.n_actions; a++) {
    const float prob = std::exp(log_prob[a]);
    for (int64_t part = 0; part < N_HEADS; part++) {
      const float* first = table + b * width + part * u.n_actions + a;
      float worst = *first, sum = *first;
      for (int64_t k = 1; k < n_critics; k++) {
        const float other = first[k * n_rows * width];
        worst = higher(other, worst);
        sum += other;
      }
      efe[part] += prob * (part == EPISTEMIC ? sum / n_critics : pessimistic(u, worst, sum));
    }
    efe[N_HEADS] -= prob * log_prob[a];
  }
}

// Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1)
void learn(const Update& u, const Adam& adam, float scale) {
  for (int64_t i = 0; i < adam.n_steps; i++) adam.step[i] += 1.0f;
  const double of_mean = u.learning_rate / (1.0 - std::pow(u.beta1, adam.step[0]));
  const float rate = of_mean, of_root = 1.0 / std::sqrt(1.0 - std::pow(u.beta2, adam.step[0]));
  const float beta1 = u.beta1, rest1 = 1.0 - u.beta1, beta2 = u.beta2, rest2 = 1.0 - u.beta2, eps = u.adam_eps;
#pragma omp simd
  for (int64_t i = 0; i < adam.size; i++) {
    const float gradient = adam.gradients[i] *= scale;  // What parameter.grad shows
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
  for (int64_t l = 0; l + 1 < net.n_layers; l++) size += net.layers[l].gain ? 2 * net.sizes[l + 1] + 1 : net.sizes[l + 1];
  return net.n_members * batch * size;
}

int step(const Update& u) {
  const int64_t batch = u.batch, n_features = u.n_features, n_actions = u.n_actions, width = N_HEADS * n_actions;
  const int64_t n_members = u.transition.n_members, n_critics = u.value.n_members, n_inputs = n_features + n_actions;
  for (int64_t b = 0; b < batch; b++)
    if (u.actions[b] < 0 || u.actions[b] >= n_actions) return 1;
  const bool two_steps = u.last_observations != u.next_observations;
  const int64_t n_next = two_steps ? 2 * batch : batch;
  static thread_local std::vector<float> pool;
  const int64_t n_kept[] = {kept_size(u.transition, batch), kept_size(u.policy, std::max(batch, n_next)),
                            kept_size(u.value, batch), kept_size(u.value_target, n_next)};
  const int64_t n_predicted = n_members * batch * n_features, n_efe = n_critics * width;
  const int64_t sizes[] = {
      batch * (3 * n_features + n_inputs + 2 * n_actions + N_HEADS + 2), n_next * (n_features + n_actions + N_HEADS + 1),
      7 * n_predicted, (n_next + 2 * batch) * n_efe, n_kept[0], n_kept[1], n_kept[2], n_kept[3],
  };
  int64_t used = 0;
  pool.resize(std::accumulate(std::begin(sizes), std::end(sizes), 32 * ALIGNMENT));
  const auto space = [&](int64_t size) { return take(pool, used, size); };
  const auto nets = [&](const Net& net, int64_t n_rows, const float* inputs, float* kept) {
    return Nets{net.n_members, n_rows, net.n_layers, net.sizes, net.layers, inputs, kept};
  };

  // DAIPolicy.observe: the running statistics, and what the world model is to predict
  float *outcome = space(batch * n_features), *features = space(batch * n_features);
  float* next_features = space(n_next * n_features);
  update(u.features_norm, u.observations, batch, n_features);
  for (int64_t b = 0; b < batch; b++)
    for (int64_t i = b * n_features; i < (b + 1) * n_features; i++)
      outcome[i] = (u.next_observations[i] - u.observations[i]) * (u.has_successor ? u.has_successor[b] : 1.0f);
  update(u.change_norm, outcome, batch, n_features);
  normalized(u.change_norm, false, outcome, batch, n_features, outcome);
  const auto scaled = [&](const float* rows, float* out) {
    if (u.normalizes)
      normalized(u.features_norm, true, rows, batch, n_features, out);
    else
      std::copy_n(rows, batch * n_features, out);
  };
  scaled(u.observations, features);
  scaled(u.next_observations, next_features);
  if (two_steps) scaled(u.last_observations, next_features + batch * n_features);
  float* pairs = space(batch * n_inputs);
  for (int64_t b = 0; b < batch; b++) {
    std::copy_n(features + b * n_features, n_features, pairs + b * n_inputs);
    for (int64_t a = 0; a < n_actions; a++) pairs[b * n_inputs + n_features + a] = u.actions[b] == a;
  }

  // The world model: gaussian_nll with smooth bounds of the variance, prediction_error and information_gain
  const int64_t n_outputs = 2 * n_features;
  float *kept = space(n_kept[0]), *outputs = space(2 * n_predicted);
  float *gradient = space(2 * n_predicted), *error = space(batch), *gain = space(batch);
  const Nets transition = nets(u.transition, batch, pairs, kept);
  forward(transition, u.eps, outputs);
  const float share = 1.0f / (n_members * batch);
  float *log_var = space(n_predicted), *inverse_var = space(n_predicted), *slope = space(n_predicted);
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
      const float observed = outcome[b * n_features + i];
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
  *u.to_information_gain = mean_gain /= batch;

  // DAI._efe_target
  float *next_log_prob = space(n_next * n_actions), *next_efe = space(n_next * (N_HEADS + 1));
  float *policy_kept = space(n_kept[1]), *target_kept = space(n_kept[3]), *table = space(n_next * n_efe);
  forward(nets(u.policy, n_next, next_features, policy_kept), u.eps, next_log_prob);
  forward(nets(u.value_target, n_next, next_features, target_kept), u.eps, table);
  double next_epistemic = 0.0;
  for (int64_t b = 0; b < n_next; b++) {
    float* log_prob = next_log_prob + b * n_actions;
    log_softmax(log_prob, n_actions, log_prob);
    expected_efe(u, log_prob, table, b, n_next, next_efe + b * (N_HEADS + 1));
    if (b < batch) next_epistemic += next_efe[b * (N_HEADS + 1) + EPISTEMIC];
  }
  const float precision = std::exp(*u.precision.nets), elsewhere = update(u.epistemic_mean, next_epistemic / batch);
  *u.gain_peak = higher(update(u.gain_mean, mean_gain), *u.gain_peak);
  const float peak = *u.gain_peak > 0.0f ? *u.gain_peak : std::numeric_limits<float>::infinity();
  float* targets = space(batch * N_HEADS);
  double extrinsic = 0.0, epistemic = 0.0, mean_error = 0.0;
  for (int64_t b = 0; b < batch; b++) {
    const float *next = next_efe + b * (N_HEADS + 1), *last = two_steps ? next + batch * (N_HEADS + 1) : next;
    const float soft_efe = last[EXTRINSIC] - u.bootstrap_entropy / precision * last[N_HEADS];
    const float discount = u.discounts ? u.discounts[b] : u.gamma;
    float* target = targets + b * N_HEADS;
    target[EXTRINSIC] = -u.preference_weight * u.log_preference[b] + discount * (1.0f - u.last_ends[b]) * soft_efe;
    target[EPISTEMIC] = -gain[b] / peak + u.epistemic_gamma * (next[EPISTEMIC] + u.ends[b] * (elsewhere - next[EPISTEMIC]));
    target[PREDICTION_ERROR] = u.surprise_sign * error[b] + u.gamma * (1.0f - u.ends[b]) * next[PREDICTION_ERROR];
    extrinsic -= target[EXTRINSIC];
    epistemic -= target[EPISTEMIC];
    mean_error += error[b];
  }
  *u.to_extrinsic_value = extrinsic / batch;
  *u.to_epistemic_value = epistemic / batch;
  *u.to_prediction_error = mean_error / batch;

  // The value net: mean squared errors of the action taken, each head's by its weight
  float *value_kept = space(n_kept[2]), *efe = space(batch * n_efe), *of_efe = space(batch * n_efe);
  const Nets value = nets(u.value, batch, features, value_kept);
  forward(value, u.eps, efe);
  std::fill_n(of_efe, batch * n_efe, 0.0f);
  double value_loss = 0.0;
  for (int64_t k = 0; k < n_critics; k++)
    for (int64_t b = 0; b < batch; b++)
      for (int64_t part = 0; part < N_HEADS; part++) {
        const int64_t at = (k * batch + b) * width + part * n_actions + u.actions[b];
        const float missed = efe[at] - targets[b * N_HEADS + part];
        value_loss += u.head_weights[part] * missed * missed;
        of_efe[at] = 2.0f * u.head_weights[part] * missed / batch;
      }
  *u.to_value_loss = value_loss / batch;

  // The policy: policy_divergence from the posterior under judged_efe
  float *log_prob = space(batch * n_actions), *of_logits = space(batch * n_actions), posterior[64];
  std::vector<float> many(n_actions > 64 ? n_actions : 0);
  float* log_target = n_actions > 64 ? many.data() : posterior;
  const Nets policy = nets(u.policy, batch, features, policy_kept);
  forward(policy, u.eps, log_prob);
  const float unit = u.precision_learns ? 1.0f / precision : 1.0f;
  double divergences = 0.0, entropies = 0.0;
  for (int64_t b = 0; b < batch; b++) {
    float *row = log_prob + b * n_actions, divergence = 0.0f;
    log_softmax(row, n_actions, row);
    for (int64_t a = 0; a < n_actions; a++) {
      float worst = 0.0f, sum = 0.0f, epistemic = 0.0f;
      for (int64_t k = 0; k < n_critics; k++) {
        const float* parts = efe + (k * batch + b) * width + a;
        float others = 0.0f;
        for (int64_t part = 0; part < N_HEADS; part++)
          (part == EPISTEMIC ? epistemic : others) += parts[part * n_actions] * u.head_weights[part];
        worst = k ? higher(others, worst) : others;
        sum += others;
      }
      const float judged = pessimistic(u, worst, sum) + epistemic / n_critics;
      log_target[a] = (u.log_prior ? u.log_prior[b * n_actions + a] : 0.0f) - precision * judged;
    }
    log_softmax(log_target, n_actions, log_target);
    for (int64_t a = 0; a < n_actions; a++) {
      divergence += std::exp(row[a]) * (row[a] - log_target[a]);
      entropies -= std::exp(row[a]) * row[a];
    }
    for (int64_t a = 0; a < n_actions; a++)
      of_logits[b * n_actions + a] = std::exp(row[a]) * (row[a] - log_target[a] - divergence) * unit / batch;
    divergences += divergence;
  }
  *u.to_policy_loss = divergences / batch * unit;
  *u.to_entropy = entropies / batch;
  *u.to_vfe = *u.to_prediction_error + divergences / batch;
  *u.to_precision = precision;
  *u.to_epistemic_weight = u.head_weights[EPISTEMIC];
  *u.to_loss = *u.to_transition_loss + *u.to_value_loss + *u.to_policy_loss;
  if (u.precision_learns) {
    *u.precision.gradients = u.target_entropy - *u.to_entropy;
    *u.to_precision_loss = *u.precision.nets * *u.precision.gradients;
    *u.to_loss += *u.to_precision_loss;
  }
  if (!std::isfinite(*u.to_loss)) return 0;  // The nets stay as they were

  if (u.transitions_learn) backward(transition, gradient, u.transition.gradients, nullptr);
  backward(value, of_efe, u.value.gradients, nullptr);
  backward(policy, of_logits, u.policy.gradients, nullptr);
  if (!u.nets_learn) return 0;  // Somebody wants the gradients alone
  const float norm = std::sqrt(square_sum(u.always.gradients, u.always.size) +
                               (u.transitions_learn ? square_sum(u.transitions.gradients, u.transitions.size) : 0.0f));
  const float scale = std::min(u.max_norm / (norm + 1e-6f), 1.0f);
  learn(u, u.always, scale);
  if (u.transitions_learn) learn(u, u.transitions, scale);
  if (u.precision_learns) learn(u, u.precision, 1.0f);
  follow(u.average, u.always.nets + u.n_target - u.n_average, u.n_average, u.averaging_rate);
  if (u.tau > 0.0f) follow(u.target, u.always.nets, u.n_target, u.tau);
  return 0;
}

}  // namespace

#endif
