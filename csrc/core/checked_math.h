// 64-bit arithmetic on numbers that came from outside: no result rather than a wrapped one.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

namespace whisperq {

inline std::optional<uint64_t> checked_multiply(uint64_t a, uint64_t b) noexcept {
    if (a != 0 && b > std::numeric_limits<uint64_t>::max() / a) return std::nullopt;
    return a * b;
}

}  // namespace whisperq
