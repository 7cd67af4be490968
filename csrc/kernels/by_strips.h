// multiply_packed of the tables that take one strip at a time. Included by the tables' sources only.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace whisperq::kernels {
namespace {

// Calls `multiply(strip, n_rows, out, epilogue)` for each strip that n_rows rows are in.
template <class Multiply>
void by_strips(const uint8_t* strips, int64_t k, int64_t n_rows, float* out, int64_t out_stride,
               const Epilogue& epilogue, const Multiply& multiply) {
    for (int64_t first = 0; first < n_rows; first += kStripRows, strips += strip_bytes(k)) {
        Epilogue own = epilogue;
        if (own.residual != nullptr) own.residual += first * out_stride;
        multiply(strips, n_rows - first < kStripRows ? n_rows - first : kStripRows, out + first * out_stride, own);
    }
}

}  // namespace
}  // namespace whisperq::kernels
