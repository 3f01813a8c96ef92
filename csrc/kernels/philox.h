// Philox4x32-10 (Salmon et al., 2011): the numbers of moto_pl/ops/philox.py, on any device.
#pragma once

#include "kernels/types.h"

namespace moto {
// Unnamed, so that translation units for different instruction sets never share one copy.
namespace {

struct PhiloxBlock {
  uint32_t word[4];
};

MOTO_DEVICE inline PhiloxBlock philox_block(PhiloxKey key, Stream stream, uint64_t block) {
  const uint64_t seed = key.words ? static_cast<uint64_t>(key.words[0]) : key.seed;
  const uint64_t offset = key.words ? static_cast<uint64_t>(key.words[1]) : key.offset;
  // The reference counts blocks in one 64-bit word of which the first product sees all bits; counts stay below 2^32.
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(stream);
  uint32_t c2 = static_cast<uint32_t>(offset), c3 = static_cast<uint32_t>(offset >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c0, b = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Word `index` of a stream.
MOTO_DEVICE inline uint32_t philox_word(PhiloxKey key, Stream stream, uint64_t index) {
  return philox_block(key, stream, index / 4).word[index % 4];
}

// Uniform in (0, 1): an odd multiple of 2^-24, exact in float.
template <typename T>
MOTO_DEVICE inline T philox_uniform(uint32_t word) {
  return (static_cast<T>(word >> 9) + T(0.5)) * T(1.1920928955078125e-07);
}

// Fills out[0..count) with the uniform numbers of a stream from `first` on.
template <typename T>
MOTO_DEVICE inline void philox_fill(PhiloxKey key, Stream stream, uint64_t first, int64_t count, T* out) {
  for (int64_t i = 0; i < count;) {
    const uint64_t index = first + static_cast<uint64_t>(i);
    const PhiloxBlock block = philox_block(key, stream, index / 4);
    for (uint64_t lane = index % 4; lane < 4 && i < count; ++lane) out[i++] = philox_uniform<T>(block.word[lane]);
  }
}

// Which of K members draw `number` of the member stream names.
MOTO_DEVICE inline int64_t philox_member(PhiloxKey key, uint64_t number, int64_t members) {
  return static_cast<int64_t>((uint64_t{philox_word(key, Stream::member, number)} * static_cast<uint64_t>(members)) >> 32);
}

}  // namespace
}  // namespace moto
