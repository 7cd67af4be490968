// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): random numbers by a counter. A
// number depends only on the place of its use. No state is carried from one to the next, so neither batches nor threads
// can change them.
#pragma once

#include <array>
#include <cstdint>

namespace whisperq::decoding {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

inline PhiloxCounter philox(PhiloxCounter counter, PhiloxKey key) {
    constexpr int kRounds = 10;
    constexpr uint64_t kFactor0 = 0xd2511f53, kFactor2 = 0xcd9e8d57;
    constexpr uint32_t kWeyl0 = 0x9e3779b9, kWeyl1 = 0xbb67ae85;
    for (int round = 0; round < kRounds; ++round) {
        const uint64_t product0 = kFactor0 * counter[0], product2 = kFactor2 * counter[2];
        counter = {static_cast<uint32_t>(product2 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product2),
                   static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
        key = {key[0] + kWeyl0, key[1] + kWeyl1};
    }
    return counter;
}

// Return a number in [0, 1), of 53 bits.
inline double philox_uniform(PhiloxCounter counter, PhiloxKey key) {
    const PhiloxCounter bits = philox(counter, key);
    return static_cast<double>((uint64_t{bits[0]} << 32 | bits[1]) >> 11) * 0x1p-53;
}

}  // namespace whisperq::decoding
