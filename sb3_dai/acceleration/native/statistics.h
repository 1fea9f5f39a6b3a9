// Running statistics, and functions of one number or a row that several files need.
#ifndef SB3_DAI_STATISTICS_H
#define SB3_DAI_STATISTICS_H

#include <limits>

#include "structures.h"

#if defined(VECTOR_MATH) && !defined(__clang__)
// libmvec of glibc has them for whole vectors as well
extern "C" {
__attribute__((__simd__("notinbranch"))) float expf(float) noexcept;
__attribute__((__simd__("notinbranch"))) float logf(float) noexcept;
}
#endif

namespace {

constexpr float LOG_2_PI = 1.8378770664093453f, LOG_2 = 0.6931471805599453f;

void update(const Norm& norm, const float* rows, int64_t n_rows, int64_t size) {
  const float rate = 1.0f / std::min(*norm.n_batches += 1.0f, norm.horizon);
  for (int64_t i = 0; i < size; i++) {
    const auto at = [&](int64_t b) { return std::clamp(rows[b * size + i], -norm.bound, norm.bound); };
    double sum = 0.0, squares = 0.0;
    for (int64_t b = 0; b < n_rows; b++) sum += at(b);
    const double mean = sum / n_rows, moved = mean - norm.mean[i];
    for (int64_t b = 0; b < n_rows; b++) squares += (at(b) - mean) * (at(b) - mean);
    norm.var[i] += rate * (squares / n_rows + moved * moved * (1.0 - rate) - norm.var[i]);
    norm.mean[i] += rate * moved;
  }
}

float scale_of(const Norm& norm, int64_t i) { return 1.0f / std::sqrt(norm.var[i] + norm.eps); }

void normalized(const Norm& norm, bool center, const float* rows, int64_t n_rows, int64_t size, float* out) {
  for (int64_t i = 0; i < size; i++) {
    const float mean = center ? norm.mean[i] : 0.0f, scale = scale_of(norm, i);
    for (int64_t b = 0; b < n_rows; b++)
      out[b * size + i] = std::clamp((rows[b * size + i] - mean) * scale, -norm.clip, norm.clip);
  }
}

// The gradient of what is normalised, from that of the outcome: torch's clamp passes it on where nothing is clipped
void denormalized(const Norm& norm, const float* rows, int64_t n_rows, int64_t size, float* gradient) {
  for (int64_t i = 0; i < size; i++) {
    const float mean = norm.mean[i], scale = scale_of(norm, i);
    for (int64_t b = 0; b < n_rows; b++) {
      const float number = (rows[b * size + i] - mean) * scale;
      gradient[b * size + i] = number >= -norm.clip && number <= norm.clip ? gradient[b * size + i] * scale : 0.0f;
    }
  }
}

double mean(const float* numbers, int64_t size) {
  double sum = 0.0;
  for (int64_t i = 0; i < size; i++) sum += numbers[i];
  return sum / size;
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

// Rows of logits become logarithms of probabilities, and those are written beside them. sums: (n_rows,)
// SIZE: of a row, if it is known: short rows are unrolled
template <int64_t SIZE = 0>
void log_softmax(float* logits, float* prob, float* sums, int64_t n_rows, int64_t any_size) {
  const int64_t size = SIZE ? SIZE : any_size;
  for (int64_t b = 0; b < n_rows; b++) {
    float* row = logits + b * size;
    float highest = row[0];  // NaN goes through the exponential
#pragma omp simd reduction(max : highest)
    for (int64_t a = 0; a < size; a++) highest = row[a] > highest ? row[a] : highest;
#pragma omp simd
    for (int64_t a = 0; a < size; a++) row[a] -= highest;
  }
#pragma omp simd
  for (int64_t i = 0; i < n_rows * size; i++) prob[i] = expf(logits[i]);
  for (int64_t b = 0; b < n_rows; b++) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t a = 0; a < size; a++) sum += prob[b * size + a];
    sums[b] = sum;
#pragma omp simd
    for (int64_t a = 0; a < size; a++) prob[b * size + a] /= sum;
  }
#pragma omp simd
  for (int64_t b = 0; b < n_rows; b++) sums[b] = logf(sums[b]);
  for (int64_t b = 0; b < n_rows; b++)
#pragma omp simd
    for (int64_t a = 0; a < size; a++) logits[b * size + a] -= sums[b];
}

void log_softmax_of_any(float* logits, float* prob, float* sums, int64_t n_rows, int64_t size) {
  const auto known = size == 2   ? log_softmax<2>
                     : size == 3 ? log_softmax<3>
                     : size == 4 ? log_softmax<4>
                                 : log_softmax<0>;
  known(logits, prob, sums, n_rows, size);
}

}  // namespace

#endif
