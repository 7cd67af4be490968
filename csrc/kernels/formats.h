// Formats of packed weights: one row per format. The numbers of a block are ggml's; the order is ours (pack.h).
#pragma once

#include <cstdint>

namespace whisperq::kernels {

inline constexpr int64_t kBlock = 32;        // values along k that share a scale
inline constexpr int64_t kTileColumns = 16;  // output columns whose blocks lie together

enum class Format : uint8_t { f32, f16, q8_0, q5_1, q5_0, q4_1, q4_0 };
inline constexpr int kFormatCount = 7;

struct FormatInfo {
    Format format;
    const char* name;
    int bits;            // of a code; 0: plain floats
    int zero_point;      // value = scale * (code - zero_point) + minimum, codes from 0 (q8_0 is packed with 128 added)
    bool has_minimum;    // a second f16 beside the scale
    int64_t ggml_bytes;  // of a block of ggml (f32, f16: of a value)
    int64_t tile_bytes;  // of a packed block of kTileColumns columns (f32, f16: of one k of a tile)
};

// Not `inline`, as `info` is `static`: each object has its own, since kernels must not share symbols across ISAs.
constexpr FormatInfo kFormats[kFormatCount] = {
    {Format::f32, "f32", 0, 0, false, 4, 64},       {Format::f16, "f16", 0, 0, false, 2, 32},
    {Format::q8_0, "q8_0", 8, 128, false, 34, 544}, {Format::q5_1, "q5_1", 5, 0, true, 24, 384},
    {Format::q5_0, "q5_0", 5, 16, false, 22, 352},  {Format::q4_1, "q4_1", 4, 0, true, 20, 320},
    {Format::q4_0, "q4_0", 4, 8, false, 18, 288},
};

static constexpr const FormatInfo& info(Format format) {
    return kFormats[static_cast<int>(format)];
}

}  // namespace whisperq::kernels
