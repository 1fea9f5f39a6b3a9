// A plain library, without torch, that is made when the package is installed. The gradient step in it is the eager one of
// learning/, of any agent; fingerprint.py says by which Python functions it is defined.
#include "categorical_actions.h"
#include "gaussian_actions.h"
#include "optimizer.h"
#include "step.h"

extern "C" {

// Of what it was made: a library of other sources is not to be taken
const char* source() { return SOURCE; }

// What both sides say of the structures must be the same
int64_t sizes(int64_t i) {
  const int64_t of_each[] = {sizeof(Net), sizeof(Norm), sizeof(Mean), sizeof(Head), sizeof(Lstm), sizeof(Filter),
                             sizeof(Update), sizeof(Tensor), sizeof(Optimize), N_TERMS};
  return of_each[i];
}

// Losses, terms, running statistics and gradients: an Outcome
int gradients(const Update* update) {
  return update->options ? gradients<Categorical>(*update) : gradients<Gaussian>(*update);
}

void optimize(const Optimize* all) { learn(*all); }
}
