// The world models: loss, prediction error and novelty of what an ensemble predicts.
#ifndef SB3_DAI_WORLD_MODEL_H
#define SB3_DAI_WORLD_MODEL_H

#include "observe.h"

namespace {

// The outputs of the ensemble, with those of the fixed prior nets if there are any
const float* predict(Step& s) {
  const Update& u = s.u;
  const int64_t n_outputs = u.transition.sizes[u.transition.n_layers], size = u.transition.n_members * u.batch * n_outputs;
  float* outputs = s.pool.take(size);
  s.of_transition = s.pool.take(size);
  s.error = s.pool.take(u.batch);
  s.gain = s.pool.take(u.batch);
  s.transition = nets(u.transition, u.batch, s.pairs, s.pool.take(kept_size(u.transition, u.batch)), s.pair_numbers);
  forward(s.transition, u.layer_norm_eps, outputs);
  if (u.transition_prior.n_members) {
    float* prior = s.pool.take(size);
    forward(nets(u.transition_prior, u.batch, s.pairs, nullptr, s.pair_numbers), u.layer_norm_eps, prior);
#pragma omp simd
    for (int64_t i = 0; i < size; i++) outputs[i] += u.prior_scale * prior[i];
  }
  return outputs;
}

float weight_of(const Update& u, int64_t row, int64_t b) {
  return successor(u, b) * (u.bootstrap_weights ? u.bootstrap_weights[row] : 1.0f);
}

// The mean variance of members' means is exactly 0 where they agree, as in ensemble_variance
template <typename At>
float ensemble_variance(int64_t n_members, const At& at) {
  float apart = 0.0f, squares = 0.0f;
  for (int64_t k = 0; k < n_members; k++) apart += at(k) - at(0);
  const float center = apart / n_members;
  for (int64_t k = 0; k < n_members; k++) {
    const float off = at(k) - at(0) - center;
    squares += off * off;
  }
  return squares / n_members;
}

void report(Step& s, double transition_loss, double mean_gain) {
  s.transition_loss = transition_loss;
  s.mean_gain = mean_gain / s.u.batch;
  log(s.u, TRANSITION_LOSS, s.transition_loss);
  log(s.u, MEAN_GAIN, s.mean_gain);
}

// gaussian_nll with smooth bounds of the variance, prediction_error and information_gain, or the variance of means
void predict_changes(Step& s) {
  const Update& u = s.u;
  const float* outputs = predict(s);
  const int64_t batch = u.batch, n_features = u.n_features, n_outputs = 2 * n_features, n_members = u.transition.n_members;
  const int64_t n_predicted = n_members * batch * n_features;
  const float share = 1.0f / (n_members * batch);
  float *log_var = s.pool.take(n_predicted), *inverse_var = s.pool.take(n_predicted), *slope = s.pool.take(n_predicted);
  for (int64_t row = 0; row < n_members * batch; row++)
    std::copy_n(outputs + row * n_outputs + n_features, n_features, log_var + row * n_features);
  const float highest = u.max_log_var, lowest = u.min_log_var;
#pragma omp simd
  for (int64_t i = 0; i < n_predicted; i++) {
    float upper, of_upper, lower, of_lower;
    soft(highest - log_var[i], upper, of_upper);
    soft(highest - upper - lowest, lower, of_lower);
    log_var[i] = lowest + lower;
    inverse_var[i] = expf(-log_var[i]);
    slope[i] = of_upper * of_lower;
  }
  double transition_loss = 0.0, mean_gain = 0.0;
  for (int64_t b = 0; b < batch; b++) {
    s.error[b] = s.gain[b] = 0.0f;
    for (int64_t k = 0; k < n_members; k++) {
      const int64_t row = k * batch + b;
      const float weight = weight_of(u, row, b);
      const float *mean = outputs + row * n_outputs, *observed = s.outcome + b * n_features;
      const float *var = log_var + row * n_features, *inverse = inverse_var + row * n_features;
      const float* of_var = slope + row * n_features;
      float *gradient = s.of_transition + row * n_outputs, loss = 0.0f;
      for (int64_t i = 0; i < n_features; i++) {
        const float missed = mean[i] - observed[i], square = missed * missed * inverse[i];
        loss += 0.5f * (var[i] + square + LOG_2_PI);
        gradient[i] = missed * inverse[i] * share * weight / n_features;
        gradient[i + n_features] = 0.5f * (1.0f - square) * of_var[i] * share * weight / n_features;
      }
      transition_loss += loss / n_features * weight;
    }
    for (int64_t i = 0; i < n_features; i++) {
      float sum = 0.0f, noise = 0.0f;
      const auto mean_of = [&](int64_t k) { return outputs[(k * batch + b) * n_outputs + i]; };
      for (int64_t k = 0; k < n_members; k++) {
        sum += mean_of(k);
        noise += 1.0f / inverse_var[(k * batch + b) * n_features + i];
      }
      const float missed = sum / n_members - s.outcome[b * n_features + i], variance = ensemble_variance(n_members, mean_of);
      s.error[b] += missed * missed;
      s.gain[b] += u.novelty == VARIANCE
                       ? variance / n_features
                       : 0.5f * std::log1p(variance / (noise / n_members + u.resolution * u.resolution));
    }
    s.error[b] = s.error[b] / n_features * successor(u, b);
    mean_gain += s.gain[b];
  }
  report(s, transition_loss * share, mean_gain);
}

// categorical_nll, categorical_surprise and categorical_information_gain, or the variance of probabilities
void predict_states(Step& s) {
  const Update& u = s.u;
  const float* outputs = predict(s);
  const int64_t batch = u.batch, n_members = u.transition.n_members, n_rows = n_members * batch;
  const int64_t n_states = u.transition.sizes[u.transition.n_layers];
  const float share = 1.0f / n_rows;
  float *log_prob = s.pool.take(n_rows * n_states), *prob = s.pool.take(n_rows * n_states);
  float *mixture = s.pool.take(batch * n_states), *log_mixture = s.pool.take(batch * n_states);
  std::copy_n(outputs, n_rows * n_states, log_prob);
  log_softmax_of_any(log_prob, prob, s.pool.take(n_rows), n_rows, n_states);
  std::fill_n(mixture, batch * n_states, 0.0f);
  for (int64_t k = 0; k < n_members; k++)
#pragma omp simd
    for (int64_t i = 0; i < batch * n_states; i++) mixture[i] += prob[k * batch * n_states + i] / n_members;
#pragma omp simd
  for (int64_t i = 0; i < batch * n_states; i++) log_mixture[i] = logf(mixture[i]);
  double transition_loss = 0.0, mean_gain = 0.0;
  for (int64_t b = 0; b < batch; b++) {
    const int64_t next = u.next_states[b];
    float highest = -std::numeric_limits<float>::infinity(), sum = 0.0f, of_members = 0.0f, of_mixture = 0.0f;
    for (int64_t k = 0; k < n_members; k++) {
      const int64_t row = k * batch + b;
      const float *log_probs = log_prob + row * n_states, *probs = prob + row * n_states, weight = weight_of(u, row, b);
      float *gradient = s.of_transition + row * n_states, entropy = 0.0f;
#pragma omp simd reduction(+ : entropy)
      for (int64_t i = 0; i < n_states; i++) {
        entropy -= probs[i] * log_probs[i];
        gradient[i] = probs[i] * (share * weight);
      }
      gradient[next] -= share * weight;
      transition_loss -= log_probs[next] * weight;
      of_members += entropy;
      highest = higher(log_probs[next], highest);
    }
    for (int64_t k = 0; k < n_members; k++) sum += std::exp(log_prob[(k * batch + b) * n_states + next] - highest);
    s.error[b] = (std::log(static_cast<float>(n_members)) - (highest + std::log(sum))) * successor(u, b);
    if (u.novelty == VARIANCE) {
      s.gain[b] = 0.0f;
      for (int64_t i = 0; i < n_states; i++)
        s.gain[b] += ensemble_variance(n_members, [&](int64_t k) { return prob[(k * batch + b) * n_states + i]; });
    } else {
      const float *probs = mixture + b * n_states, *log_probs = log_mixture + b * n_states;
#pragma omp simd reduction(+ : of_mixture)
      for (int64_t i = 0; i < n_states; i++) of_mixture -= probs[i] == 0.0f ? 0.0f : probs[i] * log_probs[i];
      const float gain = of_mixture - of_members / n_members;
      s.gain[b] = gain < 0.0f ? 0.0f : gain;
    }
    mean_gain += s.gain[b];
  }
  report(s, transition_loss * share, mean_gain);
}

// What Python has found, such as of Dirichlet beliefs
void read_prediction(Step& s) {
  const Update& u = s.u;
  s.error = s.pool.take(u.batch);
  s.gain = s.pool.take(u.batch);
  double mean_gain = 0.0;
  for (int64_t b = 0; b < u.batch; b++) {
    s.error[b] = u.error[b];
    mean_gain += s.gain[b] = u.gain[b];
  }
  report(s, u.transition_loss, mean_gain);
}

void predict_outcome(Step& s) {
  if (s.u.world_model == GIVEN) return read_prediction(s);
  return s.u.world_model == CATEGORICAL ? predict_states(s) : predict_changes(s);
}

}  // namespace

#endif
