// Products of batches of matrices in single precision, such as those of an ensemble of small nets.
//
// A panel of columns of the right matrix is copied to where it lies densely, and a block of rows of the left one at a time is
// multiplied with it in registers (Goto & van de Geijn 2008, doi:10.1145/1356052.1356053, without their packing of the left).
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/inductor/aoti_torch/utils.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16, ROWS = 8;  // of 32 registers 16 sums, 2 of the panel and 1 of the left matrix
#else
constexpr int64_t LANES = 8, ROWS = 6;  // of 16 registers of AVX2 12, 2 and 1
#endif
constexpr int64_t COLUMNS = 2 * LANES, DEPTH = 256;
constexpr int64_t WORK_OF_A_THREAD = 1 << 20;

typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t indices __attribute__((vector_size(LANES * sizeof(int32_t))));

struct Matrix {
  const float* data;
  int64_t row, column;  // strides
};

// Rows of the result, from a panel of NV vectors, of which n_columns numbers count
template <int64_t MB, int64_t NV>
void block(Matrix left, const float* panel, float* out, int64_t out_row, int64_t n_columns, int64_t depth, bool add) {
  vec sums[MB][NV] = {};
  for (int64_t k = 0; k < depth; k++) {
    vec right[NV];
    for (int64_t j = 0; j < NV; j++) std::memcpy(&right[j], panel + k * COLUMNS + j * LANES, sizeof(vec));
    for (int64_t i = 0; i < MB; i++) {
      const float one = left.data[i * left.row + k * left.column];
      for (int64_t j = 0; j < NV; j++) sums[i][j] += one * right[j];
    }
  }
  for (int64_t i = 0; i < MB; i++) {
    float* to = out + i * out_row;
    float row[NV * LANES];
    if (add) {
      std::memcpy(row, sums[i], sizeof(row));
      for (int64_t n = 0; n < n_columns; n++) to[n] += row[n];
    } else if (n_columns == NV * LANES) {
      std::memcpy(to, sums[i], sizeof(row));
    } else {
      std::memcpy(row, sums[i], sizeof(row));
      std::memcpy(to, row, n_columns * sizeof(float));
    }
  }
}

template <int64_t NV>
void rows(Matrix left, const float* panel, float* out, int64_t out_row, int64_t n_rows, int64_t n_columns, int64_t depth,
          bool add) {
  int64_t m = 0;
  const auto from = [&](int64_t row) { return Matrix{left.data + row * left.row, left.row, left.column}; };
  for (; m + ROWS <= n_rows; m += ROWS) block<ROWS, NV>(from(m), panel, out + m * out_row, out_row, n_columns, depth, add);
  for (; m + 4 <= n_rows; m += 4) block<4, NV>(from(m), panel, out + m * out_row, out_row, n_columns, depth, add);
  for (; m + 2 <= n_rows; m += 2) block<2, NV>(from(m), panel, out + m * out_row, out_row, n_columns, depth, add);
  for (; m < n_rows; m++) block<1, NV>(from(m), panel, out + m * out_row, out_row, n_columns, depth, add);
}

// Numbers of two vectors that follow each other, by their places
inline vec shuffle(vec one, vec other, indices from) {
#ifdef __clang__
  vec out;
  for (int64_t lane = 0; lane < LANES; lane++) out[lane] = from[lane] < LANES ? one[from[lane]] : other[from[lane] - LANES];
  return out;
#else
  return __builtin_shuffle(one, other, from);
#endif
}

// Of pairs of rows, each STEP apart, the numbers that lie STEP apart change places
template <int64_t STEP>
void swap(vec* rows) {
  indices first, second;
  for (int32_t lane = 0; lane < LANES; lane++) {
    first[lane] = lane & STEP ? LANES + lane - STEP : lane;
    second[lane] = lane & STEP ? LANES + lane : lane + STEP;
  }
  for (int64_t i = 0; i < LANES; i++) {
    if (i & STEP) continue;
    const vec one = rows[i], other = rows[i + STEP];
    rows[i] = shuffle(one, other, first);
    rows[i + STEP] = shuffle(one, other, second);
  }
}

// A square of LANES rows, from_row apart, into one of LANES columns of the panel
void transpose(const float* from, int64_t from_row, float* panel) {
  vec rows[LANES];
  for (int64_t i = 0; i < LANES; i++) std::memcpy(&rows[i], from + i * from_row, sizeof(vec));
  swap<1>(rows);
  swap<2>(rows);
  swap<4>(rows);
  if constexpr (LANES == 16) swap<8>(rows);
  for (int64_t i = 0; i < LANES; i++) std::memcpy(panel + i * COLUMNS, &rows[i], sizeof(vec));
}

void columns(Matrix left, Matrix right, float* out, int64_t out_row, int64_t n_rows, int64_t n_columns, int64_t depth) {
  alignas(64) float panel[DEPTH * COLUMNS];
  for (int64_t k0 = 0; k0 < depth; k0 += DEPTH) {
    const int64_t part = std::min(DEPTH, depth - k0);
    const float* from = right.data + k0 * right.row;
    if (right.column == 1 && n_columns == COLUMNS) {
      for (int64_t k = 0; k < part; k++) std::memcpy(panel + k * COLUMNS, from + k * right.row, COLUMNS * sizeof(float));
    } else if (right.row == 1 && n_columns == COLUMNS && part % LANES == 0) {
      for (int64_t n = 0; n < COLUMNS; n += LANES)
        for (int64_t k = 0; k < part; k += LANES)
          transpose(from + k + n * right.column, right.column, panel + k * COLUMNS + n);
    } else {
      // What fills up a vector is not stored, but denormal numbers would take their time
      if (n_columns % LANES) std::memset(panel, 0, part * COLUMNS * sizeof(float));
      for (int64_t n = 0; n < n_columns; n++)
        for (int64_t k = 0; k < part; k++) panel[k * COLUMNS + n] = from[k * right.row + n * right.column];
    }
    const Matrix now = {left.data + k0 * left.column, left.row, left.column};
    if (n_columns > LANES)
      rows<2>(now, panel, out, out_row, n_rows, n_columns, part, k0 > 0);
    else
      rows<1>(now, panel, out, out_row, n_rows, n_columns, part, k0 > 0);
  }
}

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
