// Codes of a cache in six bits: the 1024 codes of a block, + 32, in the order in which int8 has them. 256 codes, four
// rows of 64, become 192 bytes:
//
//                 bits  7 6   5 4   3 2   1 0
//   byte[0][i]          row 1, low 4  row 0, low 4      of code i of a row
//   byte[1][i]          row 3, low 4  row 2, low 4
//   byte[2][i]          row 3 row 2 row 1 row 0         the two above
//
// so that a register of any width takes whole rows apart with shifts and masks.
#pragma once

#include <cstdint>

namespace whisperq::kernels {

inline constexpr int64_t kSixBitRow = 64, kSixBitRows = 4;
inline constexpr int64_t kSixBitCodes = kSixBitRow * kSixBitRows;  // at a time
inline constexpr int64_t kSixBitBytes = kSixBitCodes * 6 / 8;      // of them
inline constexpr int kSixBitZero = 32;                             // what a code of 0 is stored as

// Pack kSixBitCodes codes in [-32, 31].
static inline void pack_six_bits(const int8_t* codes, uint8_t* packed) {
    for (int64_t i = 0; i < kSixBitRow; ++i) {
        const auto code = [&](int64_t row) { return static_cast<unsigned>(codes[row * kSixBitRow + i] + kSixBitZero); };
        packed[i] = static_cast<uint8_t>((code(0) & 15) | (code(1) & 15) << 4);
        packed[kSixBitRow + i] = static_cast<uint8_t>((code(2) & 15) | (code(3) & 15) << 4);
        packed[2 * kSixBitRow + i] =
            static_cast<uint8_t>(code(0) >> 4 | code(1) >> 4 << 2 | code(2) >> 4 << 4 | code(3) >> 4 << 6);
    }
}

// Return code `at` of a block.
static inline int six_bit_code(const uint8_t* block, int64_t at) {
    const uint8_t* packed = block + at / kSixBitCodes * kSixBitBytes;
    const int64_t row = at % kSixBitCodes / kSixBitRow, i = at % kSixBitRow;
    const int low = packed[row / 2 * kSixBitRow + i] >> row % 2 * 4 & 15;
    const int high = packed[2 * kSixBitRow + i] >> row * 2 & 3;
    return (low | high << 4) - kSixBitZero;
}

}  // namespace whisperq::kernels
