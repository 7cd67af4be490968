// The order of bytes in strips and expanded tiles of ARM's tables, and other parts that their sources share. kernels.h
// lets each table choose its order. Only arm/neon*.cpp include it. Each compiles its own copy for its own instructions,
// so all of it is in an anonymous namespace.
//
// A block of a strip, 256 bytes, so that every load of it is aligned and stays in one cache line:
//
//   int8  codes[kStripRows * kBlock]   in the order of the table's instruction
//   float scales[8], sums[8]           of kStripRows rows, then zeros: whole registers can be loaded
//
// An expanded tile is cut into parts of as many columns as one pass over k keeps sums of in registers. The blocks of a
// part follow one another, so that a pass reads forward only:
//
//   int8  codes[kColumns * kBlock]     in the order of the table's instruction, zero point taken away
//   float scales[kColumns]
//   float minima[kColumns]             in formats without minima: whether the codes are narrow
#pragma once

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

namespace whisperq::kernels {
namespace {

#define WHISPERQ_INLINE [[gnu::always_inline]] inline

// GCC moves no instruction across this. The inner loops use all 32 registers: a scheduler that is free to load further
// ahead spills sums. The loops are therefore written as segments. A segment loads the next one's values, multiplies
// loaded ones, and finishes earlier products. Cores that execute in order thus do not wait either.
WHISPERQ_INLINE void end_segment() {
    __asm__ volatile("" ::: "memory");
}

constexpr int64_t kLanes = 4;                      // floats of a register
constexpr int64_t kQuads = kTileColumns / kLanes;  // registers of a row of a tile
constexpr int64_t kGroup = 4;                      // values of k that pack.h keeps together
constexpr int64_t kGroups = kBlock / kGroup;

// ---- Strips
constexpr int64_t kStripCodes = kStripRows * kBlock;
constexpr int64_t kPaddedRows = 8;
constexpr int64_t kStripBlock = kStripCodes + 2 * kPaddedRows * 4;
static_assert(kStripBlock == 256 && kStripBlock <= kStripBlockBytes, "as many bytes as kernels.h gives, or fewer");

WHISPERQ_INLINE const int8_t* codes_of_strip(const uint8_t* block) {
    return reinterpret_cast<const int8_t*>(block);
}
WHISPERQ_INLINE const float* scales_of_strip(const uint8_t* block) {
    return reinterpret_cast<const float*>(block + kStripCodes);
}
WHISPERQ_INLINE const float* sums_of_strip(const uint8_t* block) {
    return scales_of_strip(block) + kPaddedRows;
}

// ---- Parts of expanded tiles
template <int64_t kColumns>
struct Part {
    static constexpr int64_t kBlockBytes = kColumns * kBlock + 2 * kColumns * 4;
    static constexpr int64_t kPerTile = kTileColumns / kColumns;
    static_assert(kBlockBytes * kPerTile == kExpandedBlockBytes, "as many bytes as kernels.h gives");

    static const int8_t* codes(const uint8_t* block) { return reinterpret_cast<const int8_t*>(block); }
    static const float* scales(const uint8_t* block) {
        return reinterpret_cast<const float*>(block + kColumns * kBlock);
    }
    static const float* minima(const uint8_t* block) { return scales(block) + kColumns; }
};

// These stand in place of minima that do not exist. Codes of five bits or fewer lie in [-16, 31], so that eight of
// their products with input codes fit int16 (8 * 31 * 127 = 31496). Only two products of eight-bit codes do (2 * 128 *
// 127 = 32512).
constexpr float kNarrowCodes = 1.0f;
constexpr float kWideCodes = 0.0f;

// ---- Counts of rows that code is compiled for. Fewer rows than a strip's are the last of a matrix, or a decoder's.
template <int kCount>
struct RowCount {
    static constexpr int kRows = kCount;
};

// Call `function` with the least RowCount that holds n_rows.
template <class Function>
WHISPERQ_INLINE void with_row_count(int64_t n_rows, Function function) {
    static_assert(kStripRows == 6, "the counts below");
    if (n_rows > 4) {
        function(RowCount<6>{});
    } else if (n_rows > 2) {
        function(RowCount<4>{});
    } else if (n_rows == 2) {
        function(RowCount<2>{});
    } else {
        function(RowCount<1>{});
    }
}

}  // namespace
}  // namespace whisperq::kernels
