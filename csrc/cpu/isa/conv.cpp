// Convolutions of stride 2. Compiled once for each instruction set: see cpu/isa/elementary.h.
#include "cpu/isa/elementary.h"
#include "cpu/isa/tiles.h"
#include "cpu/tables.h"

namespace moto::cpu {
namespace {

template <typename T>
inline T activate(T x, Activation activation) {
  // A NaN stays one.
  if (activation == Activation::elu) {
    const T below = expm1(x < T(0) ? x : T(0));
    return x <= T(0) ? below : x;
  }
  return activation == Activation::relu && x <= T(0) ? T(0) : x;
}

template <typename T>
inline T slope_at(T result, Activation activation) {
  if (activation == Activation::elu) return result > T(0) ? T(1) : result + T(1);
  return activation == Activation::relu && result <= T(0) ? T(0) : T(1);
}

// Convolution: from big to small.

template <typename T>
int64_t gather_size(const ConvShape& s) {
  return s.kernel * s.run() * to_vectors<T>(s.small_channels);
}

template <typename T>
void pack_gather(const ConvShape& s, const T* weight, T* packed) {
  const int64_t depth = s.kernel * s.run();
  for (int64_t first = 0; first < s.small_channels; first += kPanel<T>) {
    const int64_t width = panel_width<T>(first, s.small_channels), real = least(width, s.small_channels - first);
    for (int64_t d = 0; d < depth; ++d) {
      for (int64_t n = 0; n < real; ++n) packed[d * width + n] = weight[(first + n) * depth + d];
      for (int64_t n = real; n < width; ++n) packed[d * width + n] = T(0);
    }
    packed += depth * width;
  }
}

// A tile's bias: each row's.
template <typename T>
inline void repeat_bias(const T* bias, int64_t width, T* out) {
  for (int64_t n = 0; n < kRows * width; ++n) out[n] = bias[n % width];
}

// Adds the bias to a tile's numbers and activates them.
template <typename T>
inline void finish(T* tile, int64_t count, const T* bias, Activation activation) {
  if (activation == Activation::elu) {
#pragma omp simd
    for (int64_t n = 0; n < count; ++n) tile[n] = activate(tile[n] + bias[n], Activation::elu);
  } else if (activation == Activation::relu) {
#pragma omp simd
    for (int64_t n = 0; n < count; ++n) tile[n] = activate(tile[n] + bias[n], Activation::relu);
  } else {
#pragma omp simd
    for (int64_t n = 0; n < count; ++n) tile[n] += bias[n];
  }
}

template <typename T>
void gather(const ConvShape& s, int64_t frames, const T* big, const T* packed, const T* bias, Activation activation, T* small) {
  const int64_t pixels = s.small_rows * s.small_cols, count = frames * pixels, channels = s.small_channels;
  const int64_t row_stride = s.big_cols * s.big_channels, pixel_stride = 2 * s.big_channels;
  const Terms terms = {s.kernel, s.run(), row_stride, 0};
  alignas(64) T tile[kRows * kPanel<T>], tile_bias[kRows * kPanel<T>];
  for (int64_t first = 0; first < channels; first += kPanel<T>) {
    const int64_t width = panel_width<T>(first, channels), real = least(width, channels - first);
    T own_bias[kPanel<T>];
    for (int64_t n = 0; n < width; ++n) own_bias[n] = bias && n < real ? bias[first + n] : T(0);
    repeat_bias(own_bias, width, tile_bias);
    const auto& multiply = kTiles<T>.multiply[width / kLanes<T> - 1];
    int64_t f = 0, i = 0, j = 0;
    const T* corner = big;  // of the pixel's window
    for (int64_t q = 0; q < count;) {
      const int64_t end = tile_end(q, count), rows = end - q;
      const T* row[kRows];
      for (int64_t m = 0; m < rows; ++m, corner += pixel_stride) {
        row[m] = corner;
        if (++j < s.small_cols) continue;
        j = 0;
        if (++i == s.small_rows) i = 0, ++f;
        corner = big + f * s.big_size() + 2 * i * row_stride - pixel_stride;
      }
      multiply[rows - 1](row, terms, packed, tile);
      if (bias) finish(tile, rows * width, tile_bias, activation);
      for (int64_t m = 0; m < rows; ++m) copy(tile + m * width, real, small + (q + m) * channels + first);
      q = end;
    }
    packed += s.kernel * s.run() * width;
  }
}

// Transposed convolution: from small to big. Where big has few channels, parities are taken together, so that vectors are full.

struct Parities {
  int64_t row, col, rows, cols;  // the first, and how many
  int64_t row_taps, col_taps;
};

// How `merged` (1, 2 or 4) parities are taken together: the groups, whose number is the result.
inline int64_t groups_of(const ConvShape& s, int64_t merged, Parities* out) {
  const int64_t rows = merged == 4 ? 2 : 1, cols = merged == 1 ? 1 : 2;
  int64_t count = 0;
  for (int64_t row = 0; row < 2; row += rows) {
    for (int64_t col = 0; col < 2; col += cols) {
      out[count++] = {row, col, rows, cols, (s.kernel - row + 1) / 2, (s.kernel - col + 1) / 2};
    }
  }
  return count;
}

// The grouping that takes fewest products of vectors.
template <typename T>
int64_t groups(const ConvShape& s, Parities* out) {
  int64_t best = 0, chosen = 4;
  for (int64_t merged = 4; merged >= 1; merged /= 2) {
    const int64_t count = groups_of(s, merged, out);
    int64_t cost = 0;
    for (int64_t g = 0; g < count; ++g) cost += out[g].row_taps * out[g].col_taps * to_vectors<T>(merged * s.big_channels);
    if (merged == 4 || cost < best) best = cost, chosen = merged;
  }
  return groups_of(s, chosen, out);
}

template <typename T>
int64_t scatter_size(const ConvShape& s) {
  Parities parities[4];
  const int64_t count = groups<T>(s, parities);
  int64_t size = 0;
  for (int64_t g = 0; g < count; ++g) {
    const Parities& p = parities[g];
    size += p.row_taps * p.col_taps * to_vectors<T>(s.small_channels) * to_vectors<T>(p.rows * p.cols * s.big_channels);
  }
  return size;
}

template <typename T>
void pack_scatter(const ConvShape& s, const T* weight, T* packed) {
  const int64_t deep = to_vectors<T>(s.small_channels), channels = s.big_channels;
  Parities parities[4];
  const int64_t count = groups<T>(s, parities);
  for (int64_t g = 0; g < count; ++g) {
    const Parities& p = parities[g];
    const int64_t lanes = p.rows * p.cols * channels;
    for (int64_t first = 0; first < lanes; first += kPanel<T>) {
      const int64_t width = panel_width<T>(first, lanes);
      for (int64_t a = 0; a < p.row_taps; ++a) {
        for (int64_t b = 0; b < p.col_taps; ++b) {
          for (int64_t n = 0; n < width; ++n) {
            // The last tap of a window is the kernel's first.
            const int64_t lane = first + n, parity = lane / channels;
            const int64_t ky = p.row + parity / p.cols + 2 * (p.row_taps - 1 - a);
            const int64_t kx = p.col + parity % p.cols + 2 * (p.col_taps - 1 - b);
            const bool real = lane < lanes && ky < s.kernel && kx < s.kernel;
            const T* from = weight + (ky * s.kernel + kx) * channels + lane % channels;
            for (int64_t c = 0; c < deep; ++c) {
              packed[c * width + n] = real && c < s.small_channels ? from[c * s.kernel * s.run()] : T(0);
            }
          }
          packed += deep * width;
        }
      }
    }
  }
}

// Writes the lanes [first, first + width) of a pixel's tile to big.
template <typename T>
inline void spread(const ConvShape& s, const Parities& p, const T* tile, int64_t first, int64_t width, int64_t i, int64_t j,
                   T* big) {
  const int64_t channels = s.big_channels;
  for (int64_t row = 0; row < p.rows; ++row) {
    const int64_t y = 2 * i + p.row + row, x = 2 * j + p.col;
    if (y >= s.big_rows || x >= s.big_cols) continue;
    const int64_t run = least(p.cols, s.big_cols - x) * channels, start = row * p.cols * channels;  // contiguous in big
    const int64_t begin = first > start ? first : start, end = least(first + width, start + run);
    if (begin < end) copy(tile + begin - first, end - begin, big + (y * s.big_cols + x) * channels - start + begin);
  }
}

// Taps [begin, end) of `taps` that fall on small's rows (or columns) where those of place `i` in big's grid begin `taps` - 1 before
// it.
struct Span {
  int64_t begin, end;
};

inline Span span(int64_t i, int64_t taps, int64_t size) {
  const int64_t begin = i < taps ? taps - 1 - i : 0, end = least(taps, size + taps - 1 - i);
  return {begin, end > begin ? end : begin};
}

// One group and panel: `packed` are its weights, `bias` a tile's.
template <typename T>
void scatter_panel(const ConvShape& s, int64_t frames, const T* small, const T* packed, const T* bias, Activation activation,
                   T* big, const Parities& p, int64_t first, int64_t width) {
  const int64_t deep = to_vectors<T>(s.small_channels), row_stride = s.small_cols * deep;
  const int64_t grid_rows = (s.big_rows + 1 - p.row) / 2, grid_cols = (s.big_cols + 1 - p.col) / 2;
  const auto& multiply = kTiles<T>.multiply[width / kLanes<T> - 1];
  alignas(64) T tile[kRows * kPanel<T>];
  for (int64_t i = 0; i < grid_rows; ++i) {
    const Span high = span(i, p.row_taps, s.small_rows);
    // Columns with the same taps.
    for (int64_t left = 0, right; left < grid_cols; left = right) {
      const Span wide = span(left, p.col_taps, s.small_cols);
      const auto same = [&](int64_t j) {
        const Span other = span(j, p.col_taps, s.small_cols);
        return other.begin == wide.begin && other.end == wide.end;
      };
      for (right = left + 1; right < grid_cols && same(right);) ++right;
      const int64_t taps = wide.end - wide.begin, pixels = frames * (right - left);
      const Terms terms = {taps ? high.end - high.begin : 0, taps * deep, row_stride, (p.col_taps - taps) * deep};
      const T* weight = packed + (high.begin * p.col_taps + wide.begin) * deep * width;
      const int64_t corner = (i + high.begin - p.row_taps + 1) * row_stride + (wide.begin - p.col_taps + 1) * deep;
      int64_t f = 0, j = left;
      for (int64_t q = 0; q < pixels;) {
        const int64_t end = tile_end(q, pixels), rows = end - q;
        const T* row[kRows];
        int64_t frame[kRows], col[kRows];
        for (int64_t m = 0; m < rows; ++m) {
          row[m] = small + f * s.small_rows * row_stride + corner + j * deep;
          frame[m] = f, col[m] = j;
          if (++j == right) j = left, ++f;
        }
        multiply[rows - 1](row, terms, weight, tile);
        if (bias) finish(tile, rows * width, bias, activation);
        for (int64_t m = 0; m < rows; ++m) spread(s, p, tile + m * width, first, width, i, col[m], big + frame[m] * s.big_size());
        q = end;
      }
    }
  }
}

template <typename T>
void scatter(const ConvShape& s, int64_t frames, const T* small, const T* packed, const T* bias, Activation activation, T* big) {
  alignas(64) T tile_bias[kRows * kPanel<T>];
  Parities parities[4];
  const int64_t number = groups<T>(s, parities);
  for (int64_t g = 0; g < number; ++g) {
    const Parities& p = parities[g];
    const int64_t lanes = p.rows * p.cols * s.big_channels;
    for (int64_t first = 0; first < lanes; first += kPanel<T>) {
      const int64_t width = panel_width<T>(first, lanes);
      T own_bias[kPanel<T>];
      for (int64_t n = 0; n < width; ++n) own_bias[n] = bias && first + n < lanes ? bias[(first + n) % s.big_channels] : T(0);
      repeat_bias(own_bias, width, tile_bias);
      scatter_panel(s, frames, small, packed, bias ? tile_bias : nullptr, activation, big, p, first, width);
      packed += p.row_taps * p.col_taps * to_vectors<T>(s.small_channels) * width;
    }
  }
}

template <typename T>
int64_t filled_channels(const ConvShape& s) {
  return to_vectors<T>(s.small_channels);
}

template <typename T>
void slope(const T* grad, const T* result, Activation activation, int64_t count, T* out) {
  if (activation == Activation::elu) {
#pragma omp simd
    for (int64_t n = 0; n < count; ++n) out[n] = grad[n] * slope_at(result[n], Activation::elu);
  } else if (activation == Activation::relu) {
#pragma omp simd
    for (int64_t n = 0; n < count; ++n) out[n] = grad[n] * slope_at(result[n], Activation::relu);
  } else {
#pragma omp simd
    for (int64_t n = 0; n < count; ++n) out[n] = grad[n];
  }
}

template <typename T>
void fill_up(const ConvShape& s, int64_t frames, const T* small, const T* result, Activation activation, T* out) {
  const int64_t deep = to_vectors<T>(s.small_channels), channels = s.small_channels, pixels = frames * s.small_rows * s.small_cols;
  if (deep == channels) return slope(small, result, activation, pixels * channels, out);
  for (int64_t q = 0; q < pixels; ++q) {
    slope(small + q * channels, result + q * channels, activation, channels, out + q * deep);
    for (int64_t n = channels; n < deep; ++n) out[q * deep + n] = T(0);
  }
}

// The weights' gradient. Packed: for each panel of small's channels [kernel, run, width].

template <typename T>
int64_t outer_blocks(const ConvShape& s) {
  return divided_up(s.small_channels, kPanel<T>) * s.kernel * divided_up(s.run(), kRows);
}

template <typename T>
void outer(const ConvShape& s, int64_t frames, const T* big, const T* small, T* packed, int64_t begin, int64_t end) {
  const int64_t deep = to_vectors<T>(s.small_channels), pieces = divided_up(s.run(), kRows), big_row = s.big_cols * s.big_channels;
  const Walk walk = {frames, s.small_rows, s.small_cols, s.big_size(), 2 * big_row, 2 * s.big_channels, deep};
  for (int64_t block = begin; block < end; ++block) {
    const int64_t piece = block % pieces, ky = block / pieces % s.kernel, first = block / pieces / s.kernel * kPanel<T>;
    const int64_t width = panel_width<T>(first, s.small_channels);
    // Pieces of nearly the same size.
    const int64_t r = piece * s.run() / pieces, rows = (piece + 1) * s.run() / pieces - r;
    T* out = packed + s.kernel * s.run() * first + (ky * s.run() + r) * width;
    kTiles<T>.accumulate[width / kLanes<T> - 1][rows - 1](walk, big + ky * big_row + r, small + first, out);
  }
}

template <typename T>
void unpack_outer(const ConvShape& s, const T* packed, T* weight) {
  const int64_t depth = s.kernel * s.run();
  for (int64_t first = 0; first < s.small_channels; first += kPanel<T>) {
    const int64_t width = panel_width<T>(first, s.small_channels), real = least(width, s.small_channels - first);
    for (int64_t d = 0; d < depth; ++d) {
      for (int64_t n = 0; n < real; ++n) weight[(first + n) * depth + d] = packed[d * width + n];
    }
    packed += depth * width;
  }
}

template <typename T>
void channel_sums(const T* values, int64_t rows, int64_t channels, T* sums) {
  constexpr int64_t kMost = 64;
  for (int64_t first = 0; first < channels; first += kMost) {
    const int64_t width = least(kMost, channels - first);
    T sum[kMost];
    for (int64_t c = 0; c < width; ++c) sum[c] = sums[first + c];
    for (int64_t row = 0; row < rows; ++row) {
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) sum[c] += values[row * channels + first + c];
    }
    for (int64_t c = 0; c < width; ++c) sums[first + c] = sum[c];
  }
}

template <typename T>
constexpr ConvKernels<T> kTable = {gather_size<T>,  scatter_size<T>, gather_size<T>, filled_channels<T>, pack_gather<T>,
                                   pack_scatter<T>, unpack_outer<T>, gather<T>,      scatter<T>,         outer_blocks<T>,
                                   outer<T>,        fill_up<T>,      slope<T>,       channel_sums<T>};

}  // namespace

namespace MOTO_ISA {
extern const ConvKernels<float> conv_float = kTable<float>;
extern const ConvKernels<double> conv_double = kTable<double>;
}  // namespace MOTO_ISA

}  // namespace moto::cpu
