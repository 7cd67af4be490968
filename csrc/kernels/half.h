// Conversion of one f16 to a float, in plain C++: for the few values that are converted one at a time.
#pragma once

#include <cstdint>
#include <cstring>

namespace whisperq::kernels {

// Not `inline`: each object has its own, since kernels must not share symbols across ISAs.
static float half_value(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t rest = half & 0x7fffu;
    float magnitude;
    if (rest < 0x0400u) {  // zero or denormal: rest * 2^-24
        magnitude = static_cast<float>(rest) * 5.9604644775390625e-8f;
    } else {
        const uint32_t bits = rest >= 0x7c00u ? 0x7f800000u | (rest & 0x03ffu) << 13 : (rest << 13) + 0x38000000u;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
    }
    uint32_t bits;
    std::memcpy(&bits, &magnitude, sizeof bits);
    bits |= sign;
    std::memcpy(&magnitude, &bits, sizeof bits);
    return magnitude;
}

}  // namespace whisperq::kernels
