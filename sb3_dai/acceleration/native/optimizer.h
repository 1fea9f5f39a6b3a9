// Clipping, Adam, and the nets that follow those that learn.
#ifndef SB3_DAI_OPTIMIZER_H
#define SB3_DAI_OPTIMIZER_H

#include "structures.h"

namespace {

float square_sum(const float* numbers, int64_t size) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; i++) sum += numbers[i] * numbers[i];
  return sum;
}

// What makes up for the zeros that Adam's averages begin with. Most tensors have learned equally often
struct Correction {
  double step = 0.0, of_mean = 0.0, of_square = 0.0;

  void find(const Optimize& o, double now) {
    if (now == step) return;
    step = now;
    of_mean = 1.0 / (1.0 - std::pow(o.beta1, step));
    of_square = 1.0 / std::sqrt(1.0 - std::pow(o.beta2, step));
  }
};

// Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1). scale: of the clipped gradient
void learn(const Optimize& o, const Tensor& tensor, Correction& correction, float scale) {
  correction.find(o, *tensor.step += 1.0f);
  const float rate = o.learning_rates[tensor.rate] * correction.of_mean, of_root = correction.of_square;
  const float beta1 = o.beta1, rest1 = 1.0 - o.beta1, beta2 = o.beta2, rest2 = 1.0 - o.beta2, eps = o.eps;
  float *parameter = tensor.parameter, *gradient = tensor.gradient, *mean = tensor.exp_avg, *square = tensor.exp_avg_sq;
  if (scale != 1.0f)  // What parameter.grad shows
#pragma omp simd
    for (int64_t i = 0; i < tensor.size; i++) gradient[i] *= scale;
#pragma omp simd
  for (int64_t i = 0; i < tensor.size; i++) {
    const float now = gradient[i];
    mean[i] = mean[i] * beta1 + now * rest1;
    square[i] = square[i] * beta2 + now * now * rest2;
    parameter[i] -= rate * mean[i] / (std::sqrt(square[i]) * of_root + eps);
  }
}

// As torch's lerp, which arrives exactly where the rate is 1
void follow(float* copy, const Tensor& tensor, float rate) {
  const float* parameter = tensor.parameter;
  if (rate < 0.5f)
#pragma omp simd
    for (int64_t i = 0; i < tensor.size; i++) copy[i] += rate * (parameter[i] - copy[i]);
  else
#pragma omp simd
    for (int64_t i = 0; i < tensor.size; i++) copy[i] = parameter[i] - (1.0f - rate) * (parameter[i] - copy[i]);
}

// The dual parameter is not clipped with the nets, whose gradients are of another kind
void learn(const Optimize& o) {
  float squares = 0.0f;
  for (const Tensor* tensor = o.tensors; tensor < o.tensors + o.n_tensors; tensor++)
    if (o.learns[tensor->group] && tensor->group != DUAL) squares += square_sum(tensor->gradient, tensor->size);
  const float clipped = std::min(o.max_norm / (std::sqrt(squares) + o.norm_eps), 1.0f);
  Correction correction;
  for (const Tensor* tensor = o.tensors; tensor < o.tensors + o.n_tensors; tensor++) {
    if (o.learns[tensor->group]) learn(o, *tensor, correction, tensor->group == DUAL ? 1.0f : clipped);
    if (tensor->average) follow(tensor->average, *tensor, o.averaging_rate);
    if (tensor->target && o.tau > 0.0f) follow(tensor->target, *tensor, o.tau);
  }
}

}  // namespace

#endif
