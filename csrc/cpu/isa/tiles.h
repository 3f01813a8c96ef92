// The convolutions' products. Each keeps a tile of sums in registers: kRows pixels (or weights) by one or two vectors of channels.
// In every step of its loop it multiplies one vector of packed weights by one number of each pixel. A sum runs over its terms in
// one order, whatever the tile that it falls into, so that results do not depend on how many frames or threads there are.
#pragma once

#include <cstdint>

namespace moto::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kBytes = 64, kRows = 12;
#elif defined(__AVX__)
constexpr int64_t kBytes = 32, kRows = 6;
#else
constexpr int64_t kBytes = 16, kRows = 6;
#endif

template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(kBytes)));
  typedef float Anywhere __attribute__((vector_size(kBytes), aligned(sizeof(float)), may_alias));
};
template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(kBytes)));
  typedef double Anywhere __attribute__((vector_size(kBytes), aligned(sizeof(double)), may_alias));
};

template <typename T>
using Vector = typename Lanes<T>::Vector;
template <typename T>
constexpr int64_t kLanes = kBytes / static_cast<int64_t>(sizeof(T));
// Channels of a tile.
template <typename T>
constexpr int64_t kPanel = 2 * kLanes<T>;

template <typename T>
inline Vector<T> read(const T* p) {
  return *reinterpret_cast<const typename Lanes<T>::Anywhere*>(p);
}

template <typename T>
inline void write(T* p, Vector<T> x) {
  *reinterpret_cast<typename Lanes<T>::Anywhere*>(p) = x;
}

// Copies `count` numbers by whole vectors, then by halves of them: in place of a call for each few.
template <typename T, int64_t kPiece = kLanes<T>>
inline void copy(const T* from, int64_t count, T* to) {
  for (; count >= kPiece; from += kPiece, to += kPiece, count -= kPiece) __builtin_memcpy(to, from, kPiece * sizeof(T));
  if constexpr (kPiece > 1) copy<T, kPiece / 2>(from, count, to);
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
template <typename T>
inline int64_t to_vectors(int64_t channels) {
  return divided_up(channels, kLanes<T>) * kLanes<T>;
}
// The panel that begins at a channel: one or two vectors.
template <typename T>
inline int64_t panel_width(int64_t first, int64_t channels) {
  return least(kPanel<T>, to_vectors<T>(channels) - first);
}

// What a tile's sums run over: `segments` pieces of `run` numbers, `stride` apart, of each of a tile's pixels; weights lie one
// after another, `skip` vectors left out after each piece.
struct Terms {
  int64_t segments, run, stride, skip;
};

// out [M, N vectors] = the sum over the terms of rows[m] . weight.
template <typename T, int M, int N>
void multiply(const T* const* rows, const Terms& terms, const T* weight, T* out) {
  Vector<T> sum[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) sum[m][n] = Vector<T>{};
  }
  // Where each number serves one vector alone, there are not registers enough for M addresses beside them: four numbers a reading.
  constexpr int kAhead = N == 1 ? 4 : 1;
  for (int64_t s = 0; s < terms.segments; ++s) {
    int64_t at = s * terms.stride;
    const int64_t end = at + terms.run;
    for (; at + kAhead <= end; at += kAhead) {
      Vector<T> w[kAhead][N];
      for (int u = 0; u < kAhead; ++u) {
        for (int n = 0; n < N; ++n) w[u][n] = read(weight + (u * N + n) * kLanes<T>);
      }
      weight += kAhead * N * kLanes<T>;
      for (int m = 0; m < M; ++m) {
        const T* x = rows[m] + at;
        for (int u = 0; u < kAhead; ++u) {
          for (int n = 0; n < N; ++n) sum[m][n] += x[u] * w[u][n];
        }
      }
    }
    for (; at < end; ++at) {
      Vector<T> w[N];
      for (int n = 0; n < N; ++n) w[n] = read(weight + n * kLanes<T>);
      weight += N * kLanes<T>;
      for (int m = 0; m < M; ++m) {
        for (int n = 0; n < N; ++n) sum[m][n] += rows[m][at] * w[n];
      }
    }
    weight += terms.skip * N * kLanes<T>;
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) write(out + (m * N + n) * kLanes<T>, sum[m][n]);
  }
}

// packed [M, N vectors] += the sum over small's pixels, which lie one after another, of big[m] small[N vectors].
struct Walk {
  int64_t frames, rows, cols;
  int64_t big_frame, big_row, big_col, small_col;  // strides
};

template <typename T, int M, int N>
void accumulate(const Walk& walk, const T* big, const T* small, T* packed) {
  Vector<T> sum[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) sum[m][n] = read(packed + (m * N + n) * kLanes<T>);
  }
  for (int64_t f = 0; f < walk.frames; ++f) {
    for (int64_t i = 0; i < walk.rows; ++i) {
      const T* x = big + f * walk.big_frame + i * walk.big_row;
      for (int64_t j = 0; j < walk.cols; ++j) {
        Vector<T> v[N];
        for (int n = 0; n < N; ++n) v[n] = read(small + n * kLanes<T>);
        for (int m = 0; m < M; ++m) {
          for (int n = 0; n < N; ++n) sum[m][n] += x[m] * v[n];
        }
        x += walk.big_col;
        small += walk.small_col;
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) write(packed + (m * N + n) * kLanes<T>, sum[m][n]);
  }
}

template <typename T>
using Multiply = void (*)(const T* const*, const Terms&, const T*, T*);
template <typename T>
using Accumulate = void (*)(const Walk&, const T*, const T*, T*);

// The tile functions for 1 to kRows rows and 1 or 2 vectors.
template <typename T>
struct Tiles {
  Multiply<T> multiply[2][kRows];
  Accumulate<T> accumulate[2][kRows];
};

template <typename T, int M>
constexpr void fill(Tiles<T>& tiles) {
  if constexpr (M > 0) {
    tiles.multiply[0][M - 1] = multiply<T, M, 1>;
    tiles.multiply[1][M - 1] = multiply<T, M, 2>;
    tiles.accumulate[0][M - 1] = accumulate<T, M, 1>;
    tiles.accumulate[1][M - 1] = accumulate<T, M, 2>;
    fill<T, M - 1>(tiles);
  }
}

template <typename T>
constexpr Tiles<T> all_tiles() {
  Tiles<T> tiles{};
  fill<T, kRows>(tiles);
  return tiles;
}
template <typename T>
constexpr Tiles<T> kTiles = all_tiles<T>();

// Splits `count` into tiles of nearly the same size, at most kRows: the end of the one that begins at `first`.
inline int64_t tile_end(int64_t first, int64_t count) {
  const int64_t left = count - first;
  return first + divided_up(left, divided_up(left, kRows));
}

}  // namespace
}  // namespace moto::cpu
