// The one clock that all stage timings come from.
#pragma once

#include <cstdint>

namespace whisperq {

// Microseconds of a monotonic clock with an arbitrary zero.
int64_t now_us();

}  // namespace whisperq
