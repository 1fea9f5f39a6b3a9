// Critics: what several value nets make of G, their Bellman targets and their loss.
#ifndef SB3_DAI_CRITICS_H
#define SB3_DAI_CRITICS_H

#include "observe.h"

namespace {

// Between the mean of the critics and the worst of them
float pessimistic(const Update& u, float worst, float sum) {
  const float average = sum / u.value.n_members;
  return u.pessimism < 0.5f ? average + u.pessimism * (worst - average) : worst - (1.0f - u.pessimism) * (worst - average);
}

// One head at one place, whose critics are apart
float judged_part(const Update& u, const float* first, int64_t apart, const Head& head) {
  float worst = *first, sum = *first;
  for (int64_t k = 1; k < u.value.n_members; k++) {
    const float other = first[k * apart];
    worst = higher(other, worst);
    sum += other;
  }
  return head.averages ? sum / u.value.n_members : pessimistic(u, worst, sum);
}

// G at one place, whose critics and heads are apart, and the first of the worst of the critics
float judged_efe(const Update& u, const float* first, int64_t apart, int64_t heads_apart, int64_t& worst_of) {
  float worst = 0.0f, sum = 0.0f, averaged = 0.0f;
  for (int64_t k = 0; k < u.value.n_members; k++) {
    const float* efe = first + k * apart;
    float others = 0.0f;
    for (int64_t h = 0; h < u.n_heads; h++)
      (u.heads[h].averages ? averaged : others) += efe[h * heads_apart] * u.heads[h].weight;
    if (k == 0 || others > worst) worst = others, worst_of = k;
    sum += others;  // NaN if one of them is
  }
  return pessimistic(u, worst, sum) + averaged / u.value.n_members;
}

// The gradient of judged_efe, times a factor, with respect to what each critic says: by torch's rule a maximum has that of the
// first of the largest
void of_judged_efe(const Update& u, int64_t worst_of, float factor, float* first, int64_t apart) {
  const float share = 1.0f / u.value.n_members;
  for (int64_t k = 0; k < u.value.n_members; k++) {
    const float of_others = (1.0f - u.pessimism) * share + (k == worst_of ? u.pessimism : 0.0f);
    for (int64_t h = 0; h < u.n_heads; h++)
      first[k * apart + h] = factor * u.heads[h].weight * (u.heads[h].averages ? share : of_others);
  }
}

float peak(const Update& u) {
  return u.gain_peak && *u.gain_peak > 0.0f ? *u.gain_peak : std::numeric_limits<float>::infinity();
}

bool learns(const Update& u, const Head& head) { return u.transitions_learn || !head.reads_prediction; }

// Bellman targets of the heads that learn, from next_efe
void bootstrap(Step& s) {
  const Update& u = s.u;
  const int64_t batch = u.batch, n_heads = u.n_heads, width = n_heads + 1;
  const float entropy_weight = u.bootstrap_entropy / precision(u);
  s.targets = s.pool.take(batch * n_heads);
  float* next = s.pool.take(batch);
  for (int64_t h = 0; h < n_heads; h++) {
    const Head& head = u.heads[h];
    log(u, N_TERMS + n_heads + h, head.weight);
    if (!learns(u, head)) continue;
    const float *ends = head.of_returns ? u.last_ends : u.ends, *discounts = head.of_returns ? u.discounts : nullptr;
    const float* efe = s.next_efe + (head.of_returns ? (s.n_next - batch) * width : 0);
    for (int64_t b = 0; b < batch; b++)
      next[b] = efe[b * width + h] - (head.of_returns ? entropy_weight * efe[b * width + n_heads] : 0.0f);
    float elsewhere = 0.0f, unit = 1.0f;
    if (head.continues) elsewhere = update(head.running_mean, mean(next, batch));
    if (head.source == NOVELTY) {
      *u.gain_peak = higher(update(u.gain_mean, s.mean_gain), *u.gain_peak);
      unit = peak(u);
    }
    const float* cost = head.source == NOVELTY ? s.gain : head.source == ERROR ? s.error : head.cost;
    double value = 0.0;
    for (int64_t b = 0; b < batch; b++) {
      const float discount = discounts ? discounts[b] : head.discount;
      const float after = head.continues ? next[b] + ends[b] * (elsewhere - next[b]) : (1.0f - ends[b]) * next[b];
      const float target = head.sign * (cost[b] / unit) + discount * after;
      s.targets[b * n_heads + h] = target;
      value -= target;
    }
    log(u, N_TERMS + h, value / batch);
  }
  if (!u.transitions_learn) return;
  s.mean_error = mean(s.error, batch);
  log(u, PREDICTION_ERROR, s.mean_error);
}

// The critics' loss: mean squared errors of the action taken, each head's by its weight, of what was bootstrapped
// Actions: how G is to be read of what they say
template <typename Actions>
void evaluate(Step& s, const float* inputs) {
  const Update& u = s.u;
  const int64_t batch = u.batch, width = u.value.sizes[u.value.n_layers], n_efe = u.value.n_members * width;
  s.value = nets(u.value, batch, inputs, s.pool.take(kept_size(u.value, batch)));
  s.efe = s.pool.take(batch * n_efe);
  s.of_efe = s.pool.take(batch * n_efe);
  forward(s.value, u.layer_norm_eps, s.efe);
  Actions::complete(s, s.efe, batch, u.known);
  std::fill_n(s.of_efe, batch * n_efe, 0.0f);
  double value_loss = 0.0;
  for (int64_t k = 0; k < u.value.n_members; k++)
    for (int64_t b = 0; b < batch; b++)
      for (int64_t h = 0; h < u.n_heads; h++) {
        if (!learns(u, u.heads[h])) continue;
        const int64_t row = (k * batch + b) * width;
        const float weight = u.heads[h].weight;
        const float missed = Actions::taken(u, s.efe + row, b, h) - s.targets[b * u.n_heads + h];
        value_loss += weight * missed * missed;
        Actions::of_taken(u, s.of_efe + row, b, h, 2.0f * weight * missed / batch);
      }
  s.value_loss = value_loss / batch;
  log(u, VALUE_LOSS, s.value_loss);
}

}  // namespace

#endif
