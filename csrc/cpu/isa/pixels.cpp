// Pixels as numbers, and the squared error of images. Compiled once for each instruction set: see cpu/isa/elementary.h.
#include "cpu/tables.h"

namespace moto::cpu {
namespace {

// As moto_pl/ops/pixels.py rounds it.
template <typename T>
inline T number(uint8_t pixel, T offset) {
  return static_cast<T>(pixel) / T(255) - offset;
}

// Calls body(place, pixel) for each of a row's pixels, `place` counting as the channels-last maps do. The first two cases, frames
// as they are stored and as they are shifted, are vectorised.
template <typename Body>
inline void for_row(const uint8_t* row, const Pixels& p, int64_t cols, int64_t channels, const Body& body) {
  if (p.col == 1 && channels == 3) {
    const uint8_t *red = row, *green = row + p.channel, *blue = row + 2 * p.channel;
#pragma omp simd
    for (int64_t x = 0; x < cols; ++x) {
      body(3 * x, red[x]);
      body(3 * x + 1, green[x]);
      body(3 * x + 2, blue[x]);
    }
  } else if (p.channel == 1 && p.col == channels) {
#pragma omp simd
    for (int64_t n = 0; n < cols * channels; ++n) body(n, row[n]);
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t x = 0; x < cols; ++x) body(x * channels + c, row[c * p.channel + x * p.col]);
    }
  }
}

// All the numbers that a pixel can be: a table is read faster than a division is made where nothing is vectorised.
template <typename T>
struct Numbers {
  T of[256];

  explicit Numbers(T offset) {
    for (int pixel = 0; pixel < 256; ++pixel) of[pixel] = number(static_cast<uint8_t>(pixel), offset);
  }
};

template <typename T>
void read_pixels(const Pixels& p, const ConvShape& s, int64_t frames, T offset, T* out) {
  const bool vectorises = (p.col == 1 && s.big_channels == 3) || (p.channel == 1 && p.col == s.big_channels);
  const Numbers<T> numbers(offset);
  for (int64_t f = 0; f < frames; ++f) {
    for (int64_t y = 0; y < s.big_rows; ++y) {
      T* to = out + f * s.big_size() + y * s.big_cols * s.big_channels;
      const uint8_t* row = p.data + f * p.frame + y * p.row;
      if (vectorises) {
        for_row(row, p, s.big_cols, s.big_channels, [=](int64_t n, uint8_t pixel) { to[n] = number(pixel, offset); });
      } else {
        for_row(row, p, s.big_cols, s.big_channels, [&](int64_t n, uint8_t pixel) { to[n] = numbers.of[pixel]; });
      }
    }
  }
}

template <typename T>
void error(const T* values, const Pixels& p, int64_t rows, int64_t cols, int64_t channels, T scale, T* out) {
  for (int64_t y = 0; y < rows; ++y) {
    const T* in = values + y * cols * channels;
    T* to = out + y * cols * channels;
    for_row(p.data + y * p.row, p, cols, channels,
            [=](int64_t n, uint8_t pixel) { to[n] = (in[n] - number(pixel, T(0.5))) * scale; });
  }
}

template <typename T>
T squared_error(const T* values, const Pixels& p, int64_t rows, int64_t cols, int64_t channels, T* row) {
  T total = 0;
  for (int64_t y = 0; y < rows; ++y) {
    const Pixels own = {p.data + y * p.row, 0, p.channel, 0, p.col};
    error(values + y * cols * channels, own, 1, cols, channels, T(1), row);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t n = 0; n < cols * channels; ++n) sum += row[n] * row[n];
    total += sum;
  }
  return T(0.5) * total;
}

template <typename T>
constexpr PixelKernels<T> kTable = {read_pixels<T>, squared_error<T>, error<T>};

}  // namespace

namespace MOTO_ISA {
extern const PixelKernels<float> pixels_float = kTable<float>;
extern const PixelKernels<double> pixels_double = kTable<double>;
}  // namespace MOTO_ISA

}  // namespace moto::cpu
