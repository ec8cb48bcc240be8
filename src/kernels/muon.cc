// The iterations run on the Gram matrix of the rows. With A = X Xᵀ an iteration
// X <- (a + b A + c A²) X commutes with A, so the whole of it is one polynomial of A that is
// applied to X at the end: products of [rows,rows] in place of [rows,columns], half the work for
// filters of 3x3 and less for wider ones. All polynomials of A are symmetric: half of each is
// computed.
#include "kernels/muon.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <type_traits>

#include "kernels/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/muon.cc"
#include <hwy/foreach_target.h>  // includes this file once for each instruction set
#include <hwy/highway.h>

#include "kernels/product-inl.h"

#ifndef SKIPWAY_KERNELS_MUON_LAYOUT
#define SKIPWAY_KERNELS_MUON_LAYOUT
namespace skipway::kernels {

constexpr int64_t kMuonRows = 16;    // that are turned round together
constexpr double kSmallest = 1e-12;  // norm: a zero momentum is not divided by zero

// Scratch memory of a thread in words of four bytes.
struct MuonLayout : ScratchOffsets {
  int64_t some_rows, turned, panels, tile;          // momentum
  int64_t gram, square, polynomial, product, half;  // [rows,rows]
  int64_t halves;                                   // four matrices of bf16

  MuonLayout(int64_t rows, int64_t columns) {
    some_rows = take(kMuonRows * columns);
    turned = take(rows * columns);
    panels = take(rows * columns);
    tile = take(rows * kPanel);
    for (int64_t* matrix : {&gram, &square, &polynomial, &product, &half})
      *matrix = take(rows * rows);
    halves = take(2 * rows * rows);
  }
};

}  // namespace skipway::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skipway::kernels {
namespace HWY_NAMESPACE {

// A matrix of words [depth,columns] lies in panels of 64 columns, one after another; both operands
// of a product and its result do. Of the left one that is the transposed matrix.
HWY_INLINE int64_t panel_width(int64_t columns, int64_t panel) {
  return std::min(kPanel, columns - panel);
}

// out [rows,columns of the panel], fp32, of a left side [depth,rows] and one panel of a right side.
template <class Op>
void multiply_panel(const float* left, int64_t rows, int64_t first_row, int64_t depth,
                    const float* right, int64_t width, float* out) {
  const Multiply<Op> multiply;
  for (int64_t row = first_row; row < rows; row += kPanel) {
    const int64_t height = panel_width(rows, row);
    multiply({height, width, depth, left + row * depth, 1, height, right, 0, width,
              out + row * width, width, false});
  }
}

// Copies what is below the diagonal blocks of a symmetric matrix to where it is missing, above
// them.
inline void mirror(float* matrix, int64_t size) {
  constexpr int64_t kSide = 16;
  for (int64_t panel = kPanel; panel < size; panel += kPanel) {
    const int64_t width = panel_width(size, panel);
    for (int64_t row = 0; row < panel; row += kSide) {
      const int64_t from = row / kPanel * kPanel;  // a whole panel
      for (int64_t i = 0; i < width; i += kSide)
        transpose_16x16(matrix + from * size + (panel + i) * kPanel + row - from, kPanel,
                        matrix + panel * size + row * width + i, width);
    }
  }
}

// out = leftᵀ right, which is known to be symmetric: [size,size] of [depth,size] and the same.
template <class Op>
void multiply_symmetric(const float* left, const float* right, int64_t depth, int64_t size,
                        float* out) {
  for (int64_t panel = 0; panel < size; panel += kPanel)
    multiply_panel<Op>(left, size, panel, depth, right + panel * depth, panel_width(size, panel),
                       out + panel * size);
  mirror(out, size);
}

// out = left right of symmetric matrices [size,size] whose product is symmetric too, in fp32. On
// tile registers each matrix is the sum of two of bf16, of which three products are nearly as
// exact.
template <class Op>
class SymmetricProduct {
 public:
  SymmetricProduct(int64_t size, float* space) : size_(size), space_(space) {}

  void operator()(const float* left, const float* right, float* out) const {
#if HWY_TARGET == HWY_AVX3
    if constexpr (std::is_same_v<Op, PairByDot>)
      if (tiles_in_use()) return of_halves(left, right, out);
#endif
    multiply_symmetric<Fma>(left, right, size_, size_, out);
  }

 private:
#if HWY_TARGET == HWY_AVX3
  void of_halves(const float* left, const float* right, float* out) const {
    const int64_t depth = size_ / 2, words = size_ * depth, step = static_cast<int64_t>(lanes());
    // Of the left side whole rows, of the right one panels, two rows in a word.
    float *high_left = space_, *low_left = high_left + words;
    float *high_right = low_left + words, *low_right = high_right + words;
    for (int64_t panel = 0; panel < size_; panel += kPanel) {
      const int64_t width = panel_width(size_, panel);
      for (int64_t row = 0; row < size_; row += 2)
        for (int64_t i = 0; i < width; i += step) {
          const int64_t upper = panel * size_ + row * width + i;
          for (const int64_t below : {0, 1})
            TwoPartsByDot::store(
                load(left + upper + below * width),
                reinterpret_cast<Bf16*>(high_left) + (row + below) * size_ + panel + i, words);
          TwoPartsByDot::store_pair(load(right + upper), load(right + upper + width),
                                    high_right + panel * depth + row / 2 * width + i, words);
        }
    }
    const Multiply<Op> multiply;
    for (int64_t panel = 0; panel < size_; panel += kPanel) {
      const int64_t width = panel_width(size_, panel);
      for (int64_t row = panel; row < size_; row += kPanel) {
        const auto add = [&](const float* a, const float* b, bool to_sum) {
          multiply({panel_width(size_, row), width, depth, a + row * depth, depth, 1,
                    b + panel * depth, 0, width, out + panel * size_ + row * width, width, to_sum});
        };
        add(high_left, high_right, false);
        add(high_left, low_right, true);
        add(low_left, high_right, true);
      }
    }
    mirror(out, size_);
  }
#endif

  int64_t size_;
  float* space_;
};

// As operands of products; `space` is for those of bf16.
template <class Op>
const float* words_of(const float* matrix, int64_t size, float* space) {
  if constexpr (Op::kPerWord == 1) {
    return matrix;
  } else {
    const int64_t step = static_cast<int64_t>(lanes());
    for (int64_t panel = 0; panel < size; panel += kPanel) {
      const int64_t width = panel_width(size, panel);
      for (int64_t row = 0; row < size; row += 2) {
        const float* from = matrix + panel * size + row * width;
        float* to = space + panel * size / 2 + row / 2 * width;
        for (int64_t i = 0; i < width; i += step)
          Op::store_pair(load(from + i), load(from + width + i), to + i);
      }
    }
    return space;
  }
}

struct Norms {
  double filters, direction;
};

// Moves the momentum, and leaves the direction, momentum or Nesterov's, in words: `panels`, words
// of neighbouring rows in panels of columns, and `turned`, words of neighbouring columns in panels
// of rows.
template <class Op>
Norms move_momentum(const MuonMatrix& m, const MuonRates& rates, const MuonLayout& at,
                    float* scratch) {
  using Operand = typename Op::Operand;
  const int64_t step = static_cast<int64_t>(lanes()), depth = m.columns / Op::kPerWord;
  float *some_rows = scratch + at.some_rows, *turned = scratch + at.turned;
  float* panels = scratch + at.panels;
  const V keep = hn::Set(D(), static_cast<float>(rates.momentum));
  V of_filters = hn::Zero(D()), of_direction = hn::Zero(D());
  Norms squares{0, 0};
  const auto move = [&](int64_t offset) HWY_ATTR {
    const V gradient = load(m.gradient + offset), filter = load(m.filters + offset);
    const V momentum = hn::MulAdd(keep, load(m.momentum + offset), gradient);
    store(momentum, m.momentum + offset);
    const V direction = rates.nesterov ? hn::MulAdd(keep, momentum, gradient) : momentum;
    of_filters = hn::MulAdd(filter, filter, of_filters);
    of_direction = hn::MulAdd(direction, direction, of_direction);
    return direction;
  };
  for (int64_t first = 0; first < m.rows; first += kMuonRows) {
    for (int64_t row = first; row < first + kMuonRows; row += 2) {
      for (int64_t column = 0; column < m.columns; column += step) {
        const int64_t panel = column / kPanel * kPanel, width = panel_width(m.columns, panel);
        const V upper = move(row * m.columns + column);
        const V lower = move((row + 1) * m.columns + column);
        float* to = panels + (panel * m.rows + row * width) / Op::kPerWord + column - panel;
        Operand* const beside =
            reinterpret_cast<Operand*>(some_rows) + (row - first) * m.columns + column;
        if constexpr (Op::kPerWord == 1)
          store(upper, to), store(lower, to + width);
        else
          Op::store_pair(upper, lower, to);
        Op::store(upper, beside), Op::store(lower, beside + m.columns);
      }
    }
    const int64_t panel = first / kPanel * kPanel, width = panel_width(m.rows, panel);
    float* to = turned + panel * depth + first - panel;
    constexpr int64_t kLine = 16;  // words of a cache line
    for (int64_t begin = 0; begin < depth; begin += kLine) {
      const int64_t end = std::min(begin + kLine, depth);
      for (int64_t row = 0; row < kMuonRows; ++row)
        for (int64_t i = begin; i < end; ++i) to[i * width + row] = some_rows[row * depth + i];
    }
    HWY_ALIGN double sums[2 * kMuonRows] = {};
    add_to(sums, of_filters);
    add_to(sums + kMuonRows, of_direction);
    squares.filters += std::accumulate(sums, sums + kMuonRows, 0.0);
    squares.direction += std::accumulate(sums + kMuonRows, sums + 2 * kMuonRows, 0.0);
    of_filters = of_direction = hn::Zero(D());
  }
  return {std::sqrt(squares.filters), std::sqrt(squares.direction)};
}

template <class Op>
void muon_matrix(const MuonMatrix& m, const MuonRates& rates, float* scratch) {
  const MuonLayout at(m.rows, m.columns);
  const Norms norms = move_momentum<Op>(m, rates, at, scratch);
  const double scale = 1 / std::max(norms.direction, kSmallest);

  const int64_t size = m.rows, values = size * size;
  float *gram = scratch + at.gram, *square = scratch + at.square, *half = scratch + at.half;
  float *polynomial = scratch + at.polynomial, *product = scratch + at.product;
  const float* turned = scratch + at.turned;
  const SymmetricProduct<Op> multiply(size, scratch + at.halves);
  multiply_symmetric<Op>(turned, turned, m.columns / Op::kPerWord, size, gram);
  const auto by_square = static_cast<float>(scale * scale);
  for (int64_t i = 0; i < values; ++i) gram[i] *= by_square;
  for (int iteration = 0; iteration < kMuonIterations; ++iteration) {
    multiply(gram, gram, square);
    for (int64_t i = 0; i < values; ++i)
      polynomial[i] = static_cast<float>(kMuonB) * gram[i] + static_cast<float>(kMuonC) * square[i];
    for (int64_t i = 0; i < size; ++i) {
      const int64_t panel = i / kPanel * kPanel;
      polynomial[panel * size + i * panel_width(size, panel) + i - panel] +=
          static_cast<float>(kMuonA);
    }
    if (iteration == 0) {
      std::copy(polynomial, polynomial + values, product);
    } else {
      multiply(polynomial, product, half);
      std::swap(product, half);
    }
    if (iteration + 1 == kMuonIterations) break;
    multiply(polynomial, gram, half);
    multiply(half, polynomial, gram);
  }

  const float* by = words_of<Op>(product, size, half);
  float* tile = scratch + at.tile;
  const int64_t step = static_cast<int64_t>(lanes()), depth = size / Op::kPerWord;
  const V factor = hn::Set(D(), static_cast<float>(std::sqrt(static_cast<double>(size)) /
                                                   std::max(norms.filters, kSmallest)));
  const V rate = hn::Set(D(), static_cast<float>(-rates.lr * scale));
  for (int64_t panel = 0; panel < m.columns; panel += kPanel) {
    const int64_t width = panel_width(m.columns, panel);
    multiply_panel<Op>(by, size, 0, depth, scratch + at.panels + panel * depth, width, tile);
    for (int64_t row = 0; row < size; ++row) {
      float* filters = m.filters + row * m.columns + panel;
      for (int64_t i = 0; i < width; i += step)
        store(hn::MulAdd(rate, load(tile + row * width + i), hn::Mul(factor, load(filters + i))),
              filters + i);
    }
  }
}

void run_muon_matrix(const MuonMatrix& m, const MuonRates& rates, Type products, float* scratch) {
  with_types({products, products},
             [&]<class T, class Op>(Types<T, Op>) { muon_matrix<Op>(m, rates, scratch); });
}

}  // namespace HWY_NAMESPACE
}  // namespace skipway::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skipway::kernels {
namespace {
HWY_EXPORT(run_muon_matrix);

// Of a thread, enough for any of the matrices.
int64_t words_of_thread(const std::vector<MuonMatrix>& matrices) {
  int64_t words = 0;
  for (const MuonMatrix& m : matrices) words = std::max(words, MuonLayout(m.rows, m.columns).words);
  return words;
}

double work_of(const MuonMatrix& m) {
  const auto rows = static_cast<double>(m.rows);
  return rows * rows * (static_cast<double>(m.columns) + 4 * rows);
}

}  // namespace

bool muon_supports(int64_t rows, int64_t columns) {
  return rows > 0 && rows % kMuonRows == 0 && columns % 16 == 0 && rows <= columns;
}

size_t muon_workspace_bytes(const std::vector<MuonMatrix>& matrices, int threads) {
  return static_cast<size_t>(words_of_thread(matrices) * threads) * sizeof(float);
}

void muon_step(const std::vector<MuonMatrix>& matrices, const MuonRates& rates, Type products,
               void* workspace, const Threads& threads) {
  // The largest first, each to the thread that has least to do.
  std::vector<MuonMatrix> sorted = matrices;
  std::stable_sort(sorted.begin(), sorted.end(), [](const MuonMatrix& a, const MuonMatrix& b) {
    return work_of(a) > work_of(b);
  });
  std::vector<std::vector<MuonMatrix>> of_thread(static_cast<size_t>(threads.count));
  std::vector<double> work(of_thread.size());
  for (const MuonMatrix& m : sorted) {
    const auto least = std::min_element(work.begin(), work.end());
    *least += work_of(m);
    of_thread[static_cast<size_t>(least - work.begin())].push_back(m);
  }
  const int64_t words = words_of_thread(matrices);
  threads.run([&](int thread) {
    float* scratch = static_cast<float*>(workspace) + thread * words;
    for (const MuonMatrix& m : of_thread[static_cast<size_t>(thread)])
      HWY_DYNAMIC_DISPATCH(run_muon_matrix)(m, rates, products, scratch);
  });
}

}  // namespace skipway::kernels
#endif
