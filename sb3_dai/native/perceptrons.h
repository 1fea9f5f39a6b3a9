// Independent multilayer perceptrons of one shape on the same inputs, and their gradients.
#ifndef SB3_DAI_PERCEPTRONS_H
#define SB3_DAI_PERCEPTRONS_H

#include <cmath>
#include <vector>

#include "product.h"

namespace {

// What a layer learns, and the gradients of that: of all members, one after the other. No norm, no gain and shift
struct Layer {
  float *weight, *bias, *gain, *shift;
};

struct Nets {
  int64_t n_members, batch, n_layers;
  const int64_t* sizes;  // of the inputs and of each layer's outputs
  const Layer* layers;
  const float* inputs;  // (batch, sizes[0])
  // Of each hidden layer the outputs, (n_members, batch, size), and if it is normalised the same before gain and shift, and
  // the inverse standard deviations, (n_members, batch)
  float* kept;
};

struct Hidden {
  float *outputs, *normalized, *inverse_std;
};

Hidden hidden(const Nets& nets, int64_t layer, int64_t member) {
  float* at = nets.kept;
  for (int64_t before = 0; before < layer; before++) {
    const int64_t size = nets.sizes[before + 1];
    at += nets.n_members * nets.batch * (nets.layers[before].gain ? 2 * size + 1 : size);
  }
  const int64_t size = nets.batch * nets.sizes[layer + 1], all = nets.n_members * size;
  return {at + member * size, at + all + member * size, at + 2 * all + member * nets.batch};
}

void multiply(Matrix left, Matrix right, float* out, int64_t n_rows, int64_t n_columns, int64_t depth, bool add = false) {
  for (int64_t n = 0; n < n_columns; n += COLUMNS)
    columns(left, {right.data + n * right.column, right.row, right.column}, out + n, n_columns, n_rows,
            std::min(COLUMNS, n_columns - n), depth, add);
}

// NaN is neither below nor above zero: it stays
void rectify(float* row, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; i++) row[i] = row[i] < 0.0f ? 0.0f : row[i];
}

// A row of a layer's products becomes its layer normalisation. Returns the inverse standard deviation
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
    row[i] = normalized[i] * gain[i] + shift[i];
  }
  return inverse_std;
}

// The gradient of a row of a normalised layer before its gain becomes that of its inputs
void denormalize(const float* gain, const float* normalized, float inverse_std, float* of_gain, float* of_shift,
                 float* gradient, int64_t size) {
  float sum = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : sum, along)
  for (int64_t i = 0; i < size; i++) {
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

// outputs: (n_members, batch, sizes[n_layers])
void forward(const Nets& nets, float eps, float* outputs) {
  const auto [n_members, batch, n_layers, sizes, layers, first_inputs, kept] = nets;
  for (int64_t member = 0; member < n_members; member++) {
    const float* inputs = first_inputs;
    for (int64_t l = 0; l < n_layers; l++) {
      const int64_t n_in = sizes[l], n_out = sizes[l + 1];
      const bool last = l + 1 == n_layers;
      const Hidden here = last ? Hidden{outputs + member * batch * n_out, nullptr, nullptr} : hidden(nets, l, member);
      const Layer& layer = layers[l];
      const float* bias = layer.bias + member * n_out;
      multiply({inputs, n_in, 1}, {layer.weight + member * n_in * n_out, n_out, 1}, here.outputs, batch, n_out, n_in);
      for (int64_t b = 0; b < batch; b++) {
        float* row = here.outputs + b * n_out;
        if (layer.gain) {
          const float *gain = layer.gain + member * n_out, *shift = layer.shift + member * n_out;
          here.inverse_std[b] = normalize(bias, gain, shift, row, here.normalized + b * n_out, n_out, eps);
        } else {
#pragma omp simd
          for (int64_t i = 0; i < n_out; i++) row[i] += bias[i];
        }
        if (!last) rectify(row, n_out);
      }
      inputs = here.outputs;
    }
  }
}

// gradient: of the outputs, (n_members, batch, sizes[n_layers])
// gradients: of what the layers learn, or null
// of_inputs: (batch, sizes[0]), or null
void backward(const Nets& nets, const float* gradient, const Layer* gradients, float* of_inputs) {
  const auto [n_members, batch, n_layers, sizes, layers, first_inputs, kept] = nets;
  const int64_t widest = *std::max_element(sizes, sizes + n_layers + 1);
  std::vector<float> buffers(2 * batch * widest + 2 * widest);
  float *here = buffers.data(), *before = here + batch * widest, *nowhere = before + batch * widest;
  for (int64_t member = 0; member < n_members; member++) {
    const float* now = gradient + member * batch * sizes[n_layers];
    for (int64_t l = n_layers - 1; l >= 0; l--) {
      const int64_t n_in = sizes[l], n_out = sizes[l + 1];
      const float* inputs = l ? hidden(nets, l - 1, member).outputs : first_inputs;
      if (gradients) {
        multiply({inputs, 1, n_in}, {now, n_out, 1}, gradients[l].weight + member * n_in * n_out, n_in, n_out, batch);
        float* of_bias = gradients[l].bias + member * n_out;
        std::fill_n(of_bias, n_out, 0.0f);
        for (int64_t b = 0; b < batch; b++)
#pragma omp simd
          for (int64_t i = 0; i < n_out; i++) of_bias[i] += now[b * n_out + i];
      }
      const Matrix turned = {layers[l].weight + member * n_in * n_out, 1, n_out};
      if (l == 0) {
        if (of_inputs) multiply({now, n_out, 1}, turned, of_inputs, batch, n_in, n_out, member > 0);
        continue;
      }
      multiply({now, n_out, 1}, turned, before, batch, n_in, n_out);
      const Layer& layer = layers[l - 1];
      const Hidden hid = hidden(nets, l - 1, member);
      float *of_gain = nowhere, *of_shift = nowhere + widest;
      if (gradients && layer.gain) {
        of_gain = gradients[l - 1].gain + member * n_in;
        of_shift = gradients[l - 1].shift + member * n_in;
        std::fill_n(of_gain, n_in, 0.0f);
        std::fill_n(of_shift, n_in, 0.0f);
      }
      for (int64_t b = 0; b < batch; b++) {
        float* row = before + b * n_in;
        const float* outputs = hid.outputs + b * n_in;
#pragma omp simd
        for (int64_t i = 0; i < n_in; i++) row[i] = outputs[i] <= 0.0f ? 0.0f : row[i];
        if (layer.gain)
          denormalize(layer.gain + member * n_in, hid.normalized + b * n_in, hid.inverse_std[b], of_gain, of_shift, row, n_in);
      }
      std::swap(here, before);
      now = here;
    }
  }
}
}  // namespace

#endif
