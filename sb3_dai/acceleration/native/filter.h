// A belief filter: an LSTM (Hochreiter & Schmidhuber 1997) that goes through sequences of many lengths.
// RecurrentPolicy.replay and filter_losses say what is read of it.
#ifndef SB3_DAI_FILTER_H
#define SB3_DAI_FILTER_H

#include <numeric>

#include "observe.h"

namespace {

// Where rows lie once all that is read at one time lies together, the longest sequence first
struct Packing {
  std::vector<int64_t> order, offset, place;  // of sequences, of times, and of rows

  void find(const Filter& f) {
    order.resize(f.n_windows);
    std::iota(order.begin(), order.end(), 0);
    const auto longer = [&](int64_t one, int64_t other) { return f.lengths[one] > f.lengths[other]; };
    std::stable_sort(order.begin(), order.end(), longer);
    const int64_t n_steps = f.lengths[order[0]];
    offset.assign(n_steps + 1, 0);
    for (int64_t w = 0; w < f.n_windows; w++)
      for (int64_t t = 0; t < f.lengths[w]; t++) offset[t + 1]++;
    for (int64_t t = 0; t < n_steps; t++) offset[t + 1] += offset[t];
    std::vector<int64_t> first(f.n_windows, 0);
    for (int64_t w = 1; w < f.n_windows; w++) first[w] = first[w - 1] + f.lengths[w - 1];
    place.resize(f.n_rows);
    for (int64_t rank = 0; rank < f.n_windows; rank++)
      for (int64_t t = 0; t < f.lengths[order[rank]]; t++) place[first[order[rank]] + t] = offset[t] + rank;
  }

  int64_t n_steps() const { return static_cast<int64_t>(offset.size()) - 1; }
  int64_t n_at(int64_t t) const { return offset[t + 1] - offset[t]; }
};

// What an LSTM has made of packed rows: gates after their nonlinearities, the hidden and the cell state before, the cell
// state, its hyperbolic tangent, and the hidden state
struct Pass {
  const float* inputs;
  float *gates, *hidden_before, *cell_before, *cell, *squashed, *hidden;
};

struct Inferred {
  Packing packing;
  Pass online;
  Nets reward;
  float* of_reward;
};

inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

inline float hyperbolic_tangent(float x) { return 2.0f / (1.0f + expf(-2.0f * x)) - 1.0f; }

const float* scaled_rows(const Step& s, const float* raw) {
  const Update& u = s.u;
  if (!u.normalizes) return raw;
  float* out = s.pool.take(u.filter.n_rows * u.n_features);
  normalized(u.features_norm, true, raw, u.filter.n_rows, u.n_features, out);
  return out;
}

const float* packed_inputs(const Step& s, const Packing& packing, const float* scaled) {
  const int64_t n_features = s.u.n_features, n_actions = s.u.n_actions, n_inputs = n_features + n_actions;
  float* out = s.pool.take(s.u.filter.n_rows * n_inputs);
  for (int64_t row = 0; row < s.u.filter.n_rows; row++) {
    float* to = std::copy_n(scaled + row * n_features, n_features, out + packing.place[row] * n_inputs);
    std::copy_n(s.u.filter.codes + row * n_actions, n_actions, to);
  }
  return out;
}

// The gates of a row, input, forget, cell and output, and what comes of them
void step_cell(const Pass& pass, const float* bias, int64_t row, int64_t size) {
  float *gates = pass.gates + row * 4 * size, *cell = pass.cell + row * size, *squashed = pass.squashed + row * size;
  float* hidden = pass.hidden + row * size;
  const float* before = pass.cell_before + row * size;
#pragma omp simd
  for (int64_t i = 0; i < 2 * size; i++) gates[i] = sigmoid(gates[i] + bias[i]);
#pragma omp simd
  for (int64_t i = 2 * size; i < 3 * size; i++) gates[i] = hyperbolic_tangent(gates[i] + bias[i]);
#pragma omp simd
  for (int64_t i = 3 * size; i < 4 * size; i++) gates[i] = sigmoid(gates[i] + bias[i]);
#pragma omp simd
  for (int64_t i = 0; i < size; i++) {
    cell[i] = gates[size + i] * before[i] + gates[i] * gates[2 * size + i];
    squashed[i] = hyperbolic_tangent(cell[i]);
    hidden[i] = gates[3 * size + i] * squashed[i];
  }
}

// inputs: packed, (n_rows, n_features + n_actions)
Pass replay(const Step& s, const Packing& packing, const Lstm& lstm, const float* inputs) {
  const Filter& f = s.u.filter;
  const int64_t size = f.hidden_size, n_inputs = s.u.n_features + s.u.n_actions, n_rows = f.n_rows;
  const auto take = [&](int64_t width) { return s.pool.take(n_rows * width); };
  const Pass pass = {inputs, take(4 * size), take(size), take(size), take(size), take(size), take(size)};
  float *bias = s.pool.take(4 * size), *turned = s.pool.take(4 * size * size);
  for (int64_t i = 0; i < 4 * size; i++) {
    bias[i] = lstm.bias[i] + lstm.other_bias[i];
    for (int64_t j = 0; j < size; j++) turned[j * 4 * size + i] = lstm.of_hidden[i * size + j];
  }
  multiply({inputs, n_inputs, 1}, {lstm.of_inputs, 1, n_inputs}, pass.gates, n_rows, 4 * size, n_inputs);
  for (int64_t t = 0; t < packing.n_steps(); t++) {
    const int64_t first = packing.offset[t], n = packing.n_at(t);
    float *hidden_before = pass.hidden_before + first * size, *cell_before = pass.cell_before + first * size;
    if (t > 0) {
      std::copy_n(pass.hidden + packing.offset[t - 1] * size, n * size, hidden_before);
      std::copy_n(pass.cell + packing.offset[t - 1] * size, n * size, cell_before);
    } else if (f.memory) {
      for (int64_t rank = 0; rank < n; rank++) {
        const float* kept = f.memory + packing.order[rank] * 2 * size;
        std::copy_n(kept, size, hidden_before + rank * size);
        std::copy_n(kept + size, size, cell_before + rank * size);
      }
    } else {
      std::fill_n(hidden_before, n * size, 0.0f);
      std::fill_n(cell_before, n * size, 0.0f);
    }
    multiply({hidden_before, size, 1}, {turned, 4 * size, 1}, pass.gates + first * 4 * size, n, 4 * size, size, true);
    for (int64_t row = first; row < first + n; row++) step_cell(pass, bias, row, size);
  }
  return pass;
}

// The gradients of a row's gates before their nonlinearities, in the place of the gates, and of the cell state before it
void of_step_cell(const Pass& pass, int64_t row, int64_t size, const float* of_hidden, float* of_cell) {
  float* gates = pass.gates + row * 4 * size;
  const float *before = pass.cell_before + row * size, *squashed = pass.squashed + row * size;
#pragma omp simd
  for (int64_t i = 0; i < size; i++) {
    const float in = gates[i], forget = gates[size + i], change = gates[2 * size + i], out = gates[3 * size + i];
    const float of_now = of_cell[i] + of_hidden[i] * out * (1.0f - squashed[i] * squashed[i]);
    gates[i] = of_now * change * in * (1.0f - in);
    gates[size + i] = of_now * before[i] * forget * (1.0f - forget);
    gates[2 * size + i] = of_now * in * (1.0f - change * change);
    gates[3 * size + i] = of_hidden[i] * squashed[i] * out * (1.0f - out);
    of_cell[i] = of_now * forget;
  }
}

// Through time (Werbos 1990). of_hidden: packed, of what reads the hidden states, (n_rows, hidden_size), to which the gradient
// through later steps is added
// of_inputs: packed, (n_rows, n_features + n_actions), or null
void backward(const Step& s, const Packing& packing, const Pass& pass, float* of_hidden, float* of_inputs) {
  const Filter& f = s.u.filter;
  const int64_t size = f.hidden_size, n_inputs = s.u.n_features + s.u.n_actions, n_rows = f.n_rows;
  float* of_cell = s.pool.take(f.n_windows * size);
  std::fill_n(of_cell, f.n_windows * size, 0.0f);
  for (int64_t t = packing.n_steps() - 1; t >= 0; t--) {
    const int64_t first = packing.offset[t], n = packing.n_at(t);
    for (int64_t row = first; row < first + n; row++)
      of_step_cell(pass, row, size, of_hidden + row * size, of_cell + (row - first) * size);
    if (t > 0)
      multiply({pass.gates + first * 4 * size, 4 * size, 1}, {f.online.of_hidden, size, 1},
               of_hidden + packing.offset[t - 1] * size, n, size, 4 * size, true);
  }
  multiply({pass.gates, 1, 4 * size}, {pass.inputs, n_inputs, 1}, f.gradients.of_inputs, 4 * size, n_inputs, n_rows);
  multiply({pass.gates, 1, 4 * size}, {pass.hidden_before, size, 1}, f.gradients.of_hidden, 4 * size, size, n_rows);
  add_rows(pass.gates, n_rows, 4 * size, f.gradients.bias);
  std::copy_n(f.gradients.bias, 4 * size, f.gradients.other_bias);
  if (of_inputs)
    multiply({pass.gates, 4 * size, 1}, {f.online.of_inputs, n_inputs, 1}, of_inputs, n_rows, n_inputs, 4 * size);
}

// What the nets read of some rows: scaled features beside the belief
float* read(const Step& s, const Packing& packing, const float* scaled, const Pass& pass, int64_t later) {
  const Update& u = s.u;
  const int64_t size = u.filter.hidden_size;
  float* out = s.pool.take(u.batch * u.n_inputs);
  for (int64_t b = 0; b < u.batch; b++) {
    const int64_t row = u.filter.rows[b] + later;
    float* to = std::copy_n(scaled + row * u.n_features, u.n_features, out + b * u.n_inputs);
    std::copy_n(pass.hidden + packing.place[row] * size, size, to);
  }
  return out;
}

// RecurrentPolicy.replay
void infer(Step& s, Inferred& q) {
  const Update& u = s.u;
  const Filter& f = u.filter;
  const int64_t n_features = u.n_features;
  float *here = s.pool.take(u.batch * n_features), *change = s.pool.take(u.batch * n_features);
  for (int64_t b = 0; b < u.batch; b++) std::copy_n(f.raw_target + f.rows[b] * n_features, n_features, here + b * n_features);
  update(u.features_norm, here, u.batch, n_features);
  if (u.world_model == GAUSSIAN && u.transitions_learn) {
    for (int64_t b = 0; b < u.batch; b++)
      for (int64_t i = 0; i < n_features; i++)
        change[b * n_features + i] = f.raw_target[(f.rows[b] + 1) * n_features + i] - here[b * n_features + i];
    update(u.change_norm, change, u.batch, n_features);
    normalized(u.change_norm, false, change, u.batch, n_features, change);
    s.outcome = change;
  }
  q.packing.find(f);
  const float* scaled_target = scaled_rows(s, f.raw_target);
  const float *scaled = scaled_target, *inputs = packed_inputs(s, q.packing, scaled_target);
  const Pass target = replay(s, q.packing, f.target, inputs);
  if (f.raw != f.raw_target) {
    scaled = scaled_rows(s, f.raw);
    inputs = packed_inputs(s, q.packing, scaled);
  }
  q.online = replay(s, q.packing, f.online, inputs);
  s.n_next = u.batch;
  s.features = read(s, q.packing, scaled, q.online, 0);
  s.next_features = read(s, q.packing, scaled_target, target, 1);
  s.next_for_policy = read(s, q.packing, scaled, q.online, 1);
}

// The loss of the reward net, which reads what the world model does
void predict_reward(Step& s, Inferred& q) {
  const Update& u = s.u;
  const int64_t batch = u.batch;
  float *wanted = s.pool.take(batch), *predicted = s.pool.take(batch);
  update(u.filter.reward_norm, u.filter.rewards, batch, 1);
  normalized(u.filter.reward_norm, true, u.filter.rewards, batch, 1, wanted);
  q.reward = nets(u.filter.reward, batch, s.pairs, s.pool.take(kept_size(u.filter.reward, batch)));
  q.of_reward = s.pool.take(batch);
  forward(q.reward, u.layer_norm_eps, predicted);
  double loss = 0.0;
  for (int64_t b = 0; b < batch; b++) {
    const float missed = predicted[b] - wanted[b];
    loss += missed * missed;
    q.of_reward[b] = 2.0f * missed / batch;
  }
  s.reward_loss = loss / batch;
  log(u, REWARD_LOSS, s.reward_loss);
}

// of_inputs: the gradient of what the nets read, (batch, n_inputs), to which the reward net's is added, and which the filter
// passes on to its weights, and to the features of all rows as extracted, if those are to learn
void shape_filter(Step& s, Inferred& q, float* of_inputs) {
  const Update& u = s.u;
  const Filter& f = u.filter;
  const int64_t size = f.hidden_size, n_features = u.n_features, n_packed = n_features + u.n_actions;
  if (u.transitions_learn) {
    const int64_t n_pairs = f.reward.sizes[0];
    float* of_pairs = s.pool.take(u.batch * n_pairs);
    backward(q.reward, q.of_reward, f.reward.gradients, of_pairs);
    for (int64_t b = 0; b < u.batch; b++)
      for (int64_t i = n_features; i < u.n_inputs; i++) of_inputs[b * u.n_inputs + i] += of_pairs[b * n_pairs + i];
  }
  float* of_hidden = s.pool.take(f.n_rows * size);
  std::fill_n(of_hidden, f.n_rows * size, 0.0f);
  for (int64_t b = 0; b < u.batch; b++)
    std::copy_n(of_inputs + b * u.n_inputs + n_features, size, of_hidden + q.packing.place[f.rows[b]] * size);
  float* of_packed = u.of_raw ? s.pool.take(f.n_rows * n_packed) : nullptr;
  backward(s, q.packing, q.online, of_hidden, of_packed);
  if (!u.of_raw) return;
  for (int64_t row = 0; row < f.n_rows; row++)
    std::copy_n(of_packed + q.packing.place[row] * n_packed, n_features, u.of_raw + row * n_features);
  for (int64_t b = 0; b < u.batch; b++)
    for (int64_t i = 0; i < n_features; i++) u.of_raw[f.rows[b] * n_features + i] += of_inputs[b * u.n_inputs + i];
  if (u.normalizes) denormalized(u.features_norm, f.raw, f.n_rows, n_features, u.of_raw);
}

}  // namespace

#endif
