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
constexpr int64_t SHALLOW = 8 * DEPTH;  // Numbers

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

// Rows of the result, from a panel of NV vectors, of which n_columns numbers count. Unrolled at once: sums are registers
template <typename V, int64_t MB, int64_t NV>
inline __attribute__((always_inline)) void block(const Matrix& left, Panel panel, float* out, int64_t out_row,
                                                 int64_t n_columns, int64_t depth, bool add) {
  constexpr int64_t SIZE = sizeof(V) / sizeof(float);
  V sums[MB][NV];
#pragma GCC unroll 16
  for (int64_t i = 0; i < MB; i++)
#pragma GCC unroll 8
    for (int64_t j = 0; j < NV; j++) sums[i][j] = V{};
  for (int64_t k = 0; k < depth; k++) {
    V right[NV];
#pragma GCC unroll 8
    for (int64_t j = 0; j < NV; j++) std::memcpy(&right[j], panel.data + k * panel.row + j * SIZE, sizeof(V));
#pragma GCC unroll 16
    for (int64_t i = 0; i < MB; i++) {
      const float one = left.data[i * left.row + k * left.column];
#pragma GCC unroll 8
      for (int64_t j = 0; j < NV; j++) sums[i][j] += one * right[j];
    }
  }
  if (n_columns == NV * SIZE && !add) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < MB; i++)
#pragma GCC unroll 8
      for (int64_t j = 0; j < NV; j++) std::memcpy(out + i * out_row + j * SIZE, &sums[i][j], sizeof(V));
    return;
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < MB; i++) {
    float row[NV * SIZE];
#pragma GCC unroll 8
    for (int64_t j = 0; j < NV; j++) std::memcpy(row + j * SIZE, &sums[i][j], sizeof(V));
    float* to = out + i * out_row;
    for (int64_t n = 0; n < n_columns; n++) to[n] = add ? to[n] + row[n] : row[n];
  }
}

template <typename V, int64_t NV>
void rows(const Matrix& left, Panel panel, float* out, int64_t out_row, int64_t n_rows, int64_t n_columns, int64_t depth,
          bool add) {
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

// A few columns of the right matrix, to where they lie densely
void pack(Matrix right, int64_t n_columns, int64_t depth, float* panel) {
  if (right.column == 1 && n_columns == COLUMNS) {
    for (int64_t k = 0; k < depth; k++) std::memcpy(panel + k * COLUMNS, right.data + k * right.row, COLUMNS * sizeof(float));
  } else if (right.row == 1 && n_columns == COLUMNS && depth % LANES == 0) {
    for (int64_t n = 0; n < COLUMNS; n += LANES)
      for (int64_t k = 0; k < depth; k += LANES)
        transpose(right.data + k + n * right.column, right.column, panel + k * COLUMNS + n);
  } else {
    // What fills up a vector is not stored, but denormal numbers would take their time
    if (n_columns % LANES) std::memset(panel, 0, depth * COLUMNS * sizeof(float));
    for (int64_t n = 0; n < n_columns; n++)
      for (int64_t k = 0; k < depth; k++) panel[k * COLUMNS + n] = right.data[k * right.row + n * right.column];
  }
}

// As rows, of vectors that n_columns fill
inline void all_rows(const Matrix& left, Panel panel, float* out, int64_t out_row, int64_t n_rows, int64_t n_columns,
                     int64_t depth, bool add) {
  if (n_columns > LANES)
    rows<vec, 2>(left, panel, out, out_row, n_rows, n_columns, depth, add);
  else if (n_columns > LANES / 2)
    rows<vec, 1>(left, panel, out, out_row, n_rows, n_columns, depth, add);
  else
    rows<half_vec, 1>(left, panel, out, out_row, n_rows, n_columns, depth, add);
}

// At most COLUMNS columns of a product, or what is added to them
void columns(Matrix left, Matrix right, float* out, int64_t out_row, int64_t n_rows, int64_t n_columns, int64_t depth,
             bool add = false) {
  alignas(64) float panel[DEPTH * COLUMNS];
  for (int64_t k = 0; k < depth; k += DEPTH) {
    const int64_t part = std::min(DEPTH, depth - k);
    const Matrix now = {right.data + k * right.row, right.row, right.column};
    Panel packed = {now.data, right.row};
    // What is read once is read where it is: a copy would cost as much as the product
    if (right.column != 1 || n_columns % LANES != 0 || n_rows > ROWS) {
      pack(now, n_columns, part, panel);
      packed = {panel, COLUMNS};
    }
    const Matrix from = {left.data + k * left.column, left.row, left.column};
    all_rows(from, packed, out, out_row, n_rows, n_columns, part, add || k > 0);
  }
}

// A product whose right matrix, of depth * n_columns numbers, fits into the first cache: by rows, so that what is written lies
// together
void shallow(Matrix left, Matrix right, float* out, int64_t n_rows, int64_t n_columns, int64_t depth, bool add) {
  alignas(64) float panels[SHALLOW];
  for (int64_t n = 0; n < n_columns; n += COLUMNS)
    pack({right.data + n * right.column, right.row, right.column}, std::min(COLUMNS, n_columns - n), depth,
         panels + n * depth);
  for (int64_t m = 0; m < n_rows; m += ROWS) {
    const Matrix now = {left.data + m * left.row, left.row, left.column};
    for (int64_t n = 0; n < n_columns; n += COLUMNS)
      all_rows(now, {panels + n * depth, COLUMNS}, out + m * n_columns + n, n_columns, std::min(ROWS, n_rows - m),
               std::min(COLUMNS, n_columns - n), depth, add);
  }
}

// Columns of a product of one row, from the first on, as many at once as fill the registers: with fewer sums each addition
// would wait for the last. Returns how many were done
int64_t one_row(Matrix left, Matrix right, float* out, int64_t n_columns, int64_t depth, bool add) {
  constexpr int64_t AT_ONCE = 8;
  int64_t n = 0;
  for (; n + AT_ONCE * LANES <= n_columns; n += AT_ONCE * LANES)
    for (int64_t k = 0; k < depth; k += DEPTH)
      block<vec, 1, AT_ONCE>({left.data + k * left.column, left.row, left.column}, {right.data + n + k * right.row, right.row},
                             out + n, n_columns, AT_ONCE * LANES, std::min(DEPTH, depth - k), add || k > 0);
  return n;
}

// out: (n_rows, n_columns)
void multiply(Matrix left, Matrix right, float* out, int64_t n_rows, int64_t n_columns, int64_t depth, bool add = false) {
  if (n_rows > ROWS && n_columns > COLUMNS && depth * (n_columns + COLUMNS) <= SHALLOW)
    return shallow(left, right, out, n_rows, n_columns, depth, add);
  int64_t n = n_rows == 1 && right.column == 1 ? one_row(left, right, out, n_columns, depth, add) : 0;
  for (; n < n_columns; n += COLUMNS)
    columns(left, {right.data + n * right.column, right.row, right.column}, out + n, n_columns, n_rows,
            std::min(COLUMNS, n_columns - n), depth, add);
}

}  // namespace
#endif
