// The one switch over the formats that have blocks. Only the tables' sources include it.
#pragma once

#include "kernels/formats.h"

namespace whisperq::kernels {
namespace {

template <Format kOne>
struct BlockFormat {
    static constexpr Format kFormat = kOne;
};

// Call `call` with the BlockFormat of `format`. Formats without blocks are ignored:
//
//   with_block_format(format, [&](auto block) { expand<decltype(block)::kFormat>(tile, k, expanded); });
template <class Call>
void with_block_format(Format format, const Call& call) {
    switch (format) {
        case Format::q8_0:
            return call(BlockFormat<Format::q8_0>());
        case Format::q5_1:
            return call(BlockFormat<Format::q5_1>());
        case Format::q5_0:
            return call(BlockFormat<Format::q5_0>());
        case Format::q4_1:
            return call(BlockFormat<Format::q4_1>());
        case Format::q4_0:
            return call(BlockFormat<Format::q4_0>());
        case Format::f32:
        case Format::f16:
            return;
    }
}

}  // namespace
}  // namespace whisperq::kernels
