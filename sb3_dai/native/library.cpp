// A plain library, without torch, that is made when the package is installed.
#include "choice.h"
#include "gaussian.h"
#include "perceptrons.h"

extern "C" {

// Of what it was made: a library of other sources is not to be taken
const char* source() { return SOURCE; }

void perceptrons_forward(const Nets* nets, float eps, float* outputs) { forward(*nets, eps, outputs); }

void perceptrons_backward(const Nets* nets, const float* gradient, const Layer* gradients, float* of_inputs) {
  backward(*nets, gradient, gradients, of_inputs);
}

// 0, or 1 if there is an action that does not exist and nothing was done
int gradient_step(const Update* update) { return update->choices ? step<Choice>(*update) : step<Gaussian>(*update); }
}
