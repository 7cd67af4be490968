// Memory that will soon be read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/aligned.h"

#if defined(_MSC_VER) && defined(_M_X64)
#include <intrin.h>
#endif

namespace whisperq {

// Asks for [from, from + n_bytes) in the second level cache, and does not wait for it.
inline void fetch_ahead(const uint8_t* from, size_t n_bytes) noexcept {
    for (size_t i = 0; i < n_bytes; i += kCacheLine) {
#if defined(__GNUC__) || defined(__clang__)
        __builtin_prefetch(from + i, 0, 2);
#elif defined(_M_X64)
        _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T1);
#endif
    }
}

}  // namespace whisperq
