#include "core/clock.h"

#include <chrono>

namespace whisperq {

int64_t now_us() {
    const auto since_start = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::microseconds>(since_start).count();
}

}  // namespace whisperq
