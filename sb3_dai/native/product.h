// Product of two matrices in single precision, such as those of small nets.
//
// A panel of columns of the right matrix is copied to where it lies densely, and a block of rows of the left one at a time is
// multiplied with it in registers (Goto & van de Geijn 2008, doi:10.1145/1356052.1356053, without their packing of the left).
#ifndef SB3_DAI_PRODUCT_H
#define SB3_DAI_PRODUCT_H

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16, ROWS = 8;  // of 32 registers 16 sums, 2 of the panel and 1 of the left matrix
#else
constexpr int64_t LANES = 8, ROWS = 6;  // of 16 registers of AVX2 12, 2 and 1
#endif
constexpr int64_t COLUMNS = 2 * LANES, DEPTH = 256;

typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef float half_vec __attribute__((vector_size(LANES / 2 * sizeof(float))));
typedef int32_t indices __attribute__((vector_size(LANES * sizeof(int32_t))));

struct Matrix {
  const float* data;
  int64_t row, column;  // strides
};

// Rows of numbers that lie next to each other
struct Panel {
  const float* data;
  int64_t row;
};

// Rows of the result, from a panel of NV vectors, of which n_columns numbers count
template <typename V, int64_t MB, int64_t NV>
void block(Matrix left, Panel panel, float* out, int64_t out_row, int64_t n_columns, int64_t depth, bool add) {
  constexpr int64_t SIZE = sizeof(V) / sizeof(float);
  V sums[MB][NV] = {};
  for (int64_t k = 0; k < depth; k++) {
    V right[NV];
    for (int64_t j = 0; j < NV; j++) std::memcpy(&right[j], panel.data + k * panel.row + j * SIZE, sizeof(V));
    for (int64_t i = 0; i < MB; i++) {
      const float one = left.data[i * left.row + k * left.column];
      for (int64_t j = 0; j < NV; j++) sums[i][j] += one * right[j];
    }
  }
  for (int64_t i = 0; i < MB; i++) {
    float* to = out + i * out_row;
    float row[NV * SIZE];
    if (add) {
      std::memcpy(row, sums[i], sizeof(row));
      for (int64_t n = 0; n < n_columns; n++) to[n] += row[n];
    } else if (n_columns == NV * SIZE) {
      std::memcpy(to, sums[i], sizeof(row));
    } else {
      std::memcpy(row, sums[i], sizeof(row));
      std::memcpy(to, row, n_columns * sizeof(float));
    }
  }
}

template <typename V, int64_t NV>
void rows(Matrix left, Panel panel, float* out, int64_t out_row, int64_t n_rows, int64_t n_columns, int64_t depth, bool add) {
  int64_t m = 0;
  const auto from = [&](int64_t row) { return Matrix{left.data + row * left.row, left.row, left.column}; };
  for (; m + ROWS <= n_rows; m += ROWS) block<V, ROWS, NV>(from(m), panel, out + m * out_row, out_row, n_columns, depth, add);
  for (; m + 4 <= n_rows; m += 4) block<V, 4, NV>(from(m), panel, out + m * out_row, out_row, n_columns, depth, add);
  for (; m + 2 <= n_rows; m += 2) block<V, 2, NV>(from(m), panel, out + m * out_row, out_row, n_columns, depth, add);
  for (; m < n_rows; m++) block<V, 1, NV>(from(m), panel, out + m * out_row, out_row, n_columns, depth, add);
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
inline __attribute__((always_inline)) void swap(vec* rows) {
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

// At most COLUMNS columns of a product, or what is added to them
void columns(Matrix left, Matrix right, float* out, int64_t out_row, int64_t n_rows, int64_t n_columns, int64_t depth,
             bool add = false) {
  alignas(64) float panel[DEPTH * COLUMNS];
  for (int64_t k0 = 0; k0 < depth; k0 += DEPTH) {
    const int64_t part = std::min(DEPTH, depth - k0);
    const float* from = right.data + k0 * right.row;
    Panel packed = {panel, COLUMNS};
    if (right.column == 1 && n_columns % LANES == 0 && n_rows <= ROWS) {
      packed = {from, right.row};  // Read once: a copy would cost as much as the product
    } else if (right.column == 1 && n_columns == COLUMNS) {
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
      rows<vec, 2>(now, packed, out, out_row, n_rows, n_columns, part, add || k0 > 0);
    else if (n_columns > LANES / 2)
      rows<vec, 1>(now, packed, out, out_row, n_rows, n_columns, part, add || k0 > 0);
    else
      rows<half_vec, 1>(now, packed, out, out_row, n_rows, n_columns, part, add || k0 > 0);
  }
}

}  // namespace
#endif
