// Products of batches of matrices, such as those of an ensemble of small nets, as an operator of torch.
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/inductor/aoti_torch/utils.h>
#include <torch/library.h>

#include "product.h"

namespace {

constexpr int64_t WORK_OF_A_THREAD = 1 << 20;

// left: (n_members, n_rows, depth), right: (n_members, depth, n_columns)
at::Tensor product(const at::Tensor& left, const at::Tensor& right) {
  TORCH_CHECK(left.dim() == 3 && right.dim() == 3 && left.size(0) == right.size(0) && left.size(2) == right.size(1),
              "sizes ", left.sizes(), " and ", right.sizes(), " have no product");
  TORCH_CHECK(left.scalar_type() == at::kFloat && right.scalar_type() == at::kFloat, "single precision alone");
  const int64_t n_members = left.size(0), n_rows = left.size(1), depth = left.size(2), n_columns = right.size(2);
  if (left.is_meta() || right.is_meta()) return at::empty({n_members, n_rows, n_columns}, left.options());
  at::Tensor out = at::detail::empty_cpu({n_members, n_rows, n_columns}, at::kFloat);
  if (depth == 0) return out.zero_();
  const float* left_data = left.const_data_ptr<float>();
  const float* right_data = right.const_data_ptr<float>();
  float* out_data = out.mutable_data_ptr<float>();
  const int64_t n_panels = (n_columns + COLUMNS - 1) / COLUMNS;
  const int64_t panels_of_a_thread = 1 + WORK_OF_A_THREAD / (n_rows * depth * COLUMNS + 1);
  at::parallel_for(0, n_members * n_panels, panels_of_a_thread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t member = i / n_panels, n = i % n_panels * COLUMNS;
      columns({left_data + member * left.stride(0), left.stride(1), left.stride(2)},
              {right_data + member * right.stride(0) + n * right.stride(2), right.stride(1), right.stride(2)},
              out_data + (member * n_rows) * n_columns + n, n_columns, n_rows, std::min(COLUMNS, n_columns - n), depth);
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sb3_dai, library) { library.def("product(Tensor left, Tensor right) -> Tensor"); }
TORCH_LIBRARY_IMPL(sb3_dai, CPU, library) { library.impl("product", &product); }
TORCH_LIBRARY_IMPL(sb3_dai, Meta, library) { library.impl("product", &product); }

// For compiled code, which calls it by this name without asking the dispatcher
extern "C" __attribute__((visibility("default"))) AOTITorchError aoti_torch_cpu_product(
    AtenTensorHandle left, AtenTensorHandle right, AtenTensorHandle* out) {
  AOTI_TORCH_CONVERT_EXCEPTION_TO_ERROR_CODE({
    using namespace torch::aot_inductor;
    *out = new_tensor_handle(product(*tensor_handle_to_tensor_pointer(left), *tensor_handle_to_tensor_pointer(right)));
  });
}
