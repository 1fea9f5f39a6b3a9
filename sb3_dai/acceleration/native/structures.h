// What Python hands over: structures.py has the same fields in the same order. All numbers that are not of mathematics come
// from there.
#ifndef SB3_DAI_STRUCTURES_H
#define SB3_DAI_STRUCTURES_H

#include "perceptrons.h"

namespace {

// An ensemble of perceptrons. None has no members
struct Net {
  int64_t n_members, n_layers;
  int64_t numbered;  // Whether the first layer is a table, which reads numbers of rows
  const int64_t* sizes;
  const Layer *layers, *gradients;
};

// RunningNorm. What it averages is clamped to the bound first, so that squares stay finite
struct Norm {
  float *mean, *var, *n_batches, horizon, clip, eps, bound;
};

// RunningMean
struct Mean {
  float *mean, *n_batches, horizon;
};

// Where the one-step cost of a head comes from
enum Source : int64_t { COST, NOVELTY, ERROR };

// A term of G, of which the value net has an output
struct Head {
  float weight, discount, sign;  // The cost is the sign times what its source says
  int64_t continues;             // Whether its value goes on after the end of an episode, with the mean of all states
  int64_t averages;              // Whether it is the mean of the critics, and not between that and the worst of them
  int64_t of_returns;            // Whether its cost is of n steps; it then holds a share of the policy's entropy as well
  int64_t reads_prediction;      // Whether it learns only where the world model does
  int64_t source;
  const float* cost;  // Of a given source, (batch,)
  Mean running_mean;  // Of the next value, where it continues
};

// Weights of an LSTM as torch keeps them, of (4 * hidden_size) gates
struct Lstm {
  float *of_inputs, *of_hidden, *bias, *other_bias;
};

// A belief filter and its sequences, one after the other in rows. n_windows is 0 where there is none
struct Filter {
  Lstm online, target, gradients;
  Net reward;
  Norm reward_norm;
  int64_t hidden_size, n_rows, n_windows;
  const float *raw, *raw_target;  // Features as extracted, (n_rows, n_features), by the online extractor and by its target
  const float* codes;             // Coded actions before each row, (n_rows, n_actions)
  const float* memory;            // Hidden and cell state before sequences, (n_windows, 2 * hidden_size), or null for zeros
  const float* rewards;           // (batch,)
  const int64_t *lengths, *rows;  // Rows of each sequence, (n_windows,), and the row of s of each transition, (batch,)
};

enum WorldModel : int64_t { GAUSSIAN, CATEGORICAL, GIVEN };

enum Novelty : int64_t { INFORMATION_GAIN, VARIANCE };

// What is logged, before the value of each head, which is the mean of its target's negative, and the weight of each
enum Term : int64_t {
  LOSS,
  TRANSITION_LOSS,
  REWARD_LOSS,
  VALUE_LOSS,
  POLICY_LOSS,
  PRECISION_LOSS,
  PRECISION,
  PREDICTION_ERROR,
  MEAN_GAIN,
  ENTROPY,
  VFE,
  N_TERMS
};

struct Update {
  Net transition, transition_prior, policy, value, value_target;
  Norm features_norm, change_norm;
  Filter filter;
  Mean gain_mean;  // RunningPeak of the head whose source is novelty
  float* gain_peak;
  const Head* heads;
  float *log_precision, *of_log_precision;
  const int64_t* options;  // How many each choice has, or null where actions are continuous
  int64_t n_heads, batch, n_features;
  int64_t n_inputs;              // Numbers that the nets read of a state: features, and a belief about what is hidden
  int64_t n_actions;             // Numbers of a coded action
  int64_t n_choices, n_options;  // Of a choice that has the most. None where actions are continuous
  int64_t world_model, novelty;
  int64_t normalizes, precision_learns, transitions_learn, policy_learns;
  float bootstrap_entropy, pessimism, target_entropy, prior_scale;
  float layer_norm_eps, resolution, min_log_var, max_log_var, min_log_std, max_log_std, never;
  float transition_loss;  // Of a world model that is given
  // Features as extracted, (batch, n_features), the first by the online extractor and the others by its target; null where
  // they are one-hot codes of the numbers of states, (batch,). Those after n steps are null if n is 1. Where the target's of
  // s alone are missing, nothing is to be predicted
  const float *raw, *raw_target, *next_raw, *last_raw;
  const int64_t *states, *next_states, *last_states;
  // Or what torch's belief filter has made of sequences, else null: what the nets read, (batch, n_inputs), the same at the
  // next state by the targets, and there by the filter that learns, as the policy net reads it; what is to be predicted,
  // (batch, n_features)
  const float *inputs, *next_inputs, *next_for_policy, *outcome;
  // To be: the gradient of the loss, of raw features, of inputs or of the raw features of the filter's rows, or null
  float* of_raw;
  const int64_t* choices;     // (batch, n_choices)
  const float* actions;       // Or (batch, n_actions), with what those of the policy are drawn with:
  const float *next_noise, *noise;
  // Of the batch, (batch,) each. Null is 1 for successors, and for discounts of returns the head's
  const float *has_successor, *ends, *last_ends, *discounts;
  const float* bootstrap_weights;  // (n_members of the transition net, batch), or null for 1
  const float* log_prior;          // (batch, n_actions), or null for a uniform one
  const float *error, *gain;       // Of a world model that is given, (batch,); no error where there is no successor
  // Novelty of all actions, (batch, n_actions), and at the next states and those after n steps, or null: where it is known,
  // the value net learns only what comes after
  const float *known, *known_next;
  float* terms;
  const int64_t* places;  // Of each term, each head's value and each head's weight among those that are logged, or -1
};

// What learns together. The dual parameter is not clipped, and what is frozen is followed alone
enum Group : int64_t { VALUES, POLICY, TRANSITION, DUAL, FROZEN, N_GROUPS };

// A parameter, its gradient, what Adam keeps of it, and its target and average, or null
struct Tensor {
  float *parameter, *gradient, *exp_avg, *exp_avg_sq, *step, *target, *average;
  int64_t size, group, rate;  // Which of the learning rates
};

struct Optimize {
  const Tensor* tensors;
  int64_t n_tensors;
  int64_t learns[N_GROUPS];
  const double* learning_rates;
  double beta1, beta2, eps;
  float max_norm, norm_eps;  // Infinite for no clipping
  float tau, averaging_rate;  // No target follows with a tau of 0
};

}  // namespace

#endif
