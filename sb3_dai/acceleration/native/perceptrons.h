// Independent multilayer perceptrons of one shape on the same inputs, and their gradients.
#ifndef SB3_DAI_PERCEPTRONS_H
#define SB3_DAI_PERCEPTRONS_H

#include <cmath>
#include <vector>

#include "product.h"

namespace {

constexpr int64_t ALIGNMENT = 16;  // of numbers

// What a layer learns, and the gradients of that: of all members, one after the other. Null where a layer has no such thing:
// gain and shift without layer norm, and the bias of a table, whose rows are its weights
struct Layer {
  float *weight, *bias, *gain, *shift;
};

struct Nets {
  int64_t n_members, batch, n_layers;
  const int64_t* sizes;  // of the inputs and of each layer's outputs
  const Layer* layers;
  const float* inputs;      // (batch, sizes[0])
  const int64_t* numbers;   // Or of each input the row of the first layer's table that it reads, (batch,)
  // For the gradients, or null: of each hidden layer the outputs, (n_members, batch, size). If it is normalised they are made
  // again of the same before gain and shift, and there are the inverse standard deviations, (n_members, batch)
  float* kept;
};

struct Hidden {
  float *numbers, *inverse_std;
};

Hidden hidden(const Nets& nets, int64_t layer, int64_t member) {
  float* at = nets.kept;
  for (int64_t before = 0; before < layer; before++) {
    const int64_t size = nets.sizes[before + 1];
    at += nets.n_members * nets.batch * (nets.layers[before].gain ? size + 1 : size);
  }
  const int64_t size = nets.batch * nets.sizes[layer + 1];
  return {at + member * size, at + nets.n_members * size + member * nets.batch};
}

// NaN is neither below nor above zero: it stays
inline vec rectified(vec numbers) { return numbers < 0.0f ? vec{} : numbers; }

inline vec load(const float* from) {
  vec numbers;
  std::memcpy(&numbers, from, sizeof(vec));
  return numbers;
}

inline void store(vec numbers, float* to) { std::memcpy(to, &numbers, sizeof(vec)); }

// Of each of LANES vectors the sum of its numbers, added up one after the other
inline vec sums(vec* of_rows) {
  swap<1>(of_rows);
  swap<2>(of_rows);
  swap<4>(of_rows);
  if constexpr (LANES == 16) swap<8>(of_rows);
  vec sum = of_rows[0];
  for (int64_t i = 1; i < LANES; i++) sum += of_rows[i];
  return sum;
}

// A row of a layer's products, its bias added and perhaps rectified
void add(const float* bias, float* row, int64_t size, bool rectifies) {
#pragma omp simd
  for (int64_t i = 0; i < size; i++) {
    const float number = row[i] + bias[i];
    row[i] = rectifies && number < 0.0f ? 0.0f : number;
  }
}

// The widest outputs of a layer. How many rows a table has does not matter
int64_t widest_of(const Nets& nets) { return *std::max_element(nets.sizes + 1, nets.sizes + nets.n_layers + 1); }

void add_rows(const float* rows, int64_t n_rows, int64_t size, float* sum) {
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) {
    vec here = {};
    for (int64_t b = 0; b < n_rows; b++) here += load(rows + b * size + i);
    store(here, sum + i);
  }
  for (; i < size; i++) {
    sum[i] = 0.0f;
    for (int64_t b = 0; b < n_rows; b++) sum[i] += rows[b * size + i];
  }
}

// What follows is done for LANES rows of whole vectors at once, or for one row of any size. Both round alike

// Rows of a layer's products become its layer normalisation, rectified
void normalize_rows(const float* bias, const float* gain, const float* shift, float* rows, float* normalized,
                    float* inverse_std, int64_t size, float eps) {
  vec of_rows[LANES];
  for (int64_t b = 0; b < LANES; b++) {
    vec sum = {};
    for (int64_t i = 0; i < size; i += LANES) {
      const vec numbers = load(rows + b * size + i) + load(bias + i);
      store(numbers, rows + b * size + i);
      sum += numbers;
    }
    of_rows[b] = sum;
  }
  float means[LANES], vars[LANES];
  store(sums(of_rows) / static_cast<float>(size), means);
  for (int64_t b = 0; b < LANES; b++) {
    vec squares = {};
    for (int64_t i = 0; i < size; i += LANES) {
      const vec numbers = load(rows + b * size + i) - means[b];
      squares += numbers * numbers;
    }
    of_rows[b] = squares;
  }
  store(sums(of_rows) / static_cast<float>(size) + eps, vars);
  for (int64_t b = 0; b < LANES; b++) inverse_std[b] = 1.0f / std::sqrt(vars[b]);
  for (int64_t b = 0; b < LANES; b++)
    for (int64_t i = 0; i < size; i += LANES) {
      const vec numbers = (load(rows + b * size + i) - means[b]) * inverse_std[b];
      store(numbers, normalized + b * size + i);
      store(rectified(numbers * load(gain + i) + load(shift + i)), rows + b * size + i);
    }
}

float normalize(const float* bias, const float* gain, const float* shift, float* row, float* normalized, int64_t size,
                float eps) {
  float mean = 0.0f, var = 0.0f;
#pragma omp simd reduction(+ : mean)
  for (int64_t i = 0; i < size; i++) {
    row[i] += bias[i];
    mean += row[i];
  }
  mean /= size;
#pragma omp simd reduction(+ : var)
  for (int64_t i = 0; i < size; i++) {
    row[i] -= mean;
    var += row[i] * row[i];
  }
  const float inverse_std = 1.0f / std::sqrt(var / size + eps);
#pragma omp simd
  for (int64_t i = 0; i < size; i++) {
    normalized[i] = row[i] * inverse_std;
    const float number = normalized[i] * gain[i] + shift[i];
    row[i] = number < 0.0f ? 0.0f : number;
  }
  return inverse_std;
}

// The gradients of a rectified layer's outputs become those of what its normalisation reads
void denormalize_rows(const float* gain, const float* shift, const float* normalized, const float* inverse_std,
                      float* of_gain, float* of_shift, float* gradient, int64_t size) {
  constexpr int64_t AT_ONCE = 4;  // As many as registers hold
  vec sum[LANES], along[LANES];
  for (int64_t b = 0; b < LANES; b += AT_ONCE) {
    vec sums_here[AT_ONCE] = {}, along_here[AT_ONCE] = {};
    for (int64_t i = 0; i < size; i += LANES) {
      const vec gains = load(gain + i), shifts = load(shift + i);
      vec of_gains = load(of_gain + i), of_shifts = load(of_shift + i);
      for (int64_t j = 0; j < AT_ONCE; j++) {
        const int64_t at = (b + j) * size + i;
        const vec number = load(normalized + at);
        const vec passed = number * gains + shifts <= 0.0f ? vec{} : load(gradient + at);
        const vec gained = passed * gains;
        of_gains += passed * number;
        of_shifts += passed;
        sums_here[j] += gained;
        along_here[j] += gained * number;
        store(gained, gradient + at);
      }
      store(of_gains, of_gain + i);
      store(of_shifts, of_shift + i);
    }
    std::copy_n(sums_here, AT_ONCE, sum + b);
    std::copy_n(along_here, AT_ONCE, along + b);
  }
  float mean[LANES], slope[LANES];
  store(sums(sum) / static_cast<float>(size), mean);
  store(sums(along) / static_cast<float>(size), slope);
  for (int64_t b = 0; b < LANES; b++)
    for (int64_t i = 0; i < size; i += LANES) {
      const int64_t at = b * size + i;
      store(inverse_std[b] * (load(gradient + at) - mean[b] - load(normalized + at) * slope[b]), gradient + at);
    }
}

void denormalize(const float* gain, const float* shift, const float* normalized, float inverse_std, float* of_gain,
                 float* of_shift, float* gradient, int64_t size) {
  float sum = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : sum, along)
  for (int64_t i = 0; i < size; i++) {
    gradient[i] = normalized[i] * gain[i] + shift[i] <= 0.0f ? 0.0f : gradient[i];
    of_gain[i] += gradient[i] * normalized[i];
    of_shift[i] += gradient[i];
    gradient[i] *= gain[i];
    sum += gradient[i];
    along += gradient[i] * normalized[i];
  }
  sum /= size;
  along /= size;
#pragma omp simd
  for (int64_t i = 0; i < size; i++) gradient[i] = inverse_std * (gradient[i] - sum - normalized[i] * along);
}

// The outputs of a normalised layer from what is kept of them
void rescale(const float* gain, const float* shift, const float* normalized, float* rows, int64_t n_rows, int64_t size) {
  for (int64_t b = 0; b < n_rows; b++)
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
      const float number = normalized[b * size + i] * gain[i] + shift[i];
      rows[b * size + i] = number < 0.0f ? 0.0f : number;
    }
}

// Room for so many numbers, where vectors do not lie in two lines of a cache
float* aligned(std::vector<float>& block, int64_t size) {
  if (block.size() < static_cast<size_t>(size + ALIGNMENT)) block.resize(size + ALIGNMENT);
  const auto place = reinterpret_cast<uintptr_t>(block.data());
  return block.data() + (-place / sizeof(float)) % ALIGNMENT;
}

// Of a thread, for all calls of one function: what was there before is not needed
template <typename Caller>
float* scratch(int64_t size) {
  static thread_local std::vector<float> block;
  return aligned(block, size);
}

// outputs: (n_members, batch, sizes[n_layers])
void forward(const Nets& nets, float eps, float* outputs) {
  const auto [n_members, batch, n_layers, sizes, layers, first_inputs, numbers, kept] = nets;
  const int64_t widest = widest_of(nets);
  // What stays in the processor's caches is written there
  float *here = scratch<struct Forward>(3 * batch * widest + batch + widest), *before = here + batch * widest;
  const Hidden forgotten = {before + batch * widest, before + 2 * batch * widest};
  float* no_bias = forgotten.inverse_std + batch;
  if (numbers) std::fill_n(no_bias, widest, 0.0f);
  for (int64_t member = 0; member < n_members; member++) {
    const float* inputs = first_inputs;
    for (int64_t l = 0; l < n_layers; l++) {
      const int64_t n_in = sizes[l], n_out = sizes[l + 1];
      const bool last = l + 1 == n_layers;
      const Layer& layer = layers[l];
      const float* bias = layer.bias ? layer.bias + member * n_out : no_bias;
      const Hidden hid = kept && !last ? hidden(nets, l, member) : forgotten;
      float* rows = last ? outputs + member * batch * n_out : kept && !layer.gain ? hid.numbers : here;
      const float* weight = layer.weight + member * n_in * n_out;
      if (l == 0 && numbers)
        for (int64_t b = 0; b < batch; b++) std::copy_n(weight + numbers[b] * n_out, n_out, rows + b * n_out);
      else
        multiply({inputs, n_in, 1}, {weight, n_out, 1}, rows, batch, n_out, n_in);
      if (layer.gain) {
        const float *gain = layer.gain + member * n_out, *shift = layer.shift + member * n_out;
        int64_t b = 0;
        if (n_out % LANES == 0)
          for (; b + LANES <= batch; b += LANES)
            normalize_rows(bias, gain, shift, rows + b * n_out, hid.numbers + b * n_out, hid.inverse_std + b, n_out, eps);
        for (; b < batch; b++)
          hid.inverse_std[b] = normalize(bias, gain, shift, rows + b * n_out, hid.numbers + b * n_out, n_out, eps);
      } else {
        for (int64_t b = 0; b < batch; b++) add(bias, rows + b * n_out, n_out, !last);
      }
      inputs = rows;
      std::swap(here, before);
    }
  }
}

// The gradients of a layer's weights, (n_in, n_out)
void of_weights(const float* inputs, const float* gradient, float* out, int64_t n_in, int64_t n_out, int64_t batch) {
  if (n_out > LANES || n_in <= n_out) return multiply({inputs, 1, n_in}, {gradient, n_out, 1}, out, n_in, n_out, batch);
  // Of few outputs turned, so that vectors are full
  float* turned = scratch<struct Turned>(n_out * n_in);
  multiply({gradient, 1, n_out}, {inputs, n_in, 1}, turned, n_out, n_in, batch);
  for (int64_t i = 0; i < n_in; i++)
    for (int64_t o = 0; o < n_out; o++) out[i * n_out + o] = turned[o * n_in + i];
}

// The gradients of a table's rows, (n_rows, size)
void of_table(const int64_t* numbers, const float* gradient, float* out, int64_t n_rows, int64_t size, int64_t batch) {
  std::fill_n(out, n_rows * size, 0.0f);
  for (int64_t b = 0; b < batch; b++) {
    float* row = out + numbers[b] * size;
#pragma omp simd
    for (int64_t i = 0; i < size; i++) row[i] += gradient[b * size + i];
  }
}

// gradient: of the outputs, (n_members, batch, sizes[n_layers])
// gradients: of what the layers learn, or null
// of_inputs: (batch, sizes[0]), or null
void backward(const Nets& nets, const float* gradient, const Layer* gradients, float* of_inputs) {
  const auto [n_members, batch, n_layers, sizes, layers, first_inputs, numbers, kept] = nets;
  const int64_t widest = widest_of(nets);
  float *here = scratch<struct Backward>(3 * batch * widest + 2 * widest), *before = here + batch * widest;
  float *again = before + batch * widest, *nowhere = again + batch * widest;
  for (int64_t member = 0; member < n_members; member++) {
    const float* now = gradient + member * batch * sizes[n_layers];
    for (int64_t l = n_layers - 1; l >= 0; l--) {
      const int64_t n_in = sizes[l], n_out = sizes[l + 1];
      // What the layer reads, and of it the gain and the shift
      const Hidden hid = l ? hidden(nets, l - 1, member) : Hidden{};
      const bool normed = l && layers[l - 1].gain;
      const float *gain = normed ? layers[l - 1].gain + member * n_in : nullptr, *shift = nullptr;
      if (normed) shift = layers[l - 1].shift + member * n_in;
      if (gradients && l == 0 && numbers) {
        of_table(numbers, now, gradients[l].weight + member * n_in * n_out, n_in, n_out, batch);
      } else if (gradients) {
        const float* inputs = l == 0 ? first_inputs : normed ? again : hid.numbers;
        if (normed) rescale(gain, shift, hid.numbers, again, batch, n_in);
        of_weights(inputs, now, gradients[l].weight + member * n_in * n_out, n_in, n_out, batch);
        add_rows(now, batch, n_out, gradients[l].bias + member * n_out);
      }
      const Matrix turned = {layers[l].weight + member * n_in * n_out, 1, n_out};
      if (l == 0) {
        if (of_inputs) multiply({now, n_out, 1}, turned, of_inputs, batch, n_in, n_out, member > 0);
        continue;
      }
      multiply({now, n_out, 1}, turned, before, batch, n_in, n_out);
      if (normed) {
        float *of_gain = nowhere, *of_shift = nowhere + widest;
        if (gradients) {
          of_gain = gradients[l - 1].gain + member * n_in;
          of_shift = gradients[l - 1].shift + member * n_in;
        }
        std::fill_n(of_gain, n_in, 0.0f);
        std::fill_n(of_shift, n_in, 0.0f);
        int64_t b = 0;
        if (n_in % LANES == 0)
          for (; b + LANES <= batch; b += LANES)
            denormalize_rows(gain, shift, hid.numbers + b * n_in, hid.inverse_std + b, of_gain, of_shift, before + b * n_in,
                             n_in);
        for (; b < batch; b++)
          denormalize(gain, shift, hid.numbers + b * n_in, hid.inverse_std[b], of_gain, of_shift, before + b * n_in, n_in);
      } else {
#pragma omp simd
        for (int64_t i = 0; i < batch * n_in; i++) before[i] = hid.numbers[i] <= 0.0f ? 0.0f : before[i];
      }
      std::swap(here, before);
      now = here;
    }
  }
}
}  // namespace

#endif
