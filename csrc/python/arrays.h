// Arrays of floats that Python gives.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "core/status.h"

namespace whisperq::python {

using Floats = pybind11::array_t<float, pybind11::array::c_style>;

inline std::string describe(const pybind11::array& array) {
    return pybind11::str("{} of shape {}").format(array.dtype(), array.attr("shape"));
}

// As the kernels read it: contiguous, and each float where a float may stand.
inline Floats readable(const pybind11::array& array) {
    const bool is_aligned = reinterpret_cast<uintptr_t>(array.data()) % alignof(float) == 0;
    return is_aligned ? Floats(array) : Floats(pybind11::array(array.attr("copy")()));
}

// `name`: what the caller calls them. Throws Error(Status::audio).
inline Floats checked_pcm(const pybind11::array& samples, const char* name) {
    if (samples.ndim() != 1 || !pybind11::isinstance<pybind11::array_t<float>>(samples)) {
        throw Error(Status::audio, std::string(name) + ": an array of " + describe(samples) +
                                       "; it has to be float32, one-dimensional: 16 kHz, one channel, in [-1, 1]");
    }
    return readable(samples);
}

}  // namespace whisperq::python
