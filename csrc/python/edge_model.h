// What `_core.EdgeModel` holds: bindings of the encoder and of decoding share it.
#pragma once

#include <filesystem>
#include <memory>

#include "decoding/row_math.h"
#include "dispatch/isas.h"
#include "edge/decoder.h"
#include "edge/encoder.h"
#include "edge/model.h"
#include "edge/silence.h"

namespace whisperq::python {

struct EdgeModel {
    EdgeModel(const std::filesystem::path& path, const dispatch::Isa& isa, int n_threads)
        : model(path, isa.kernels, n_threads), encoder(model), decoder(model), row_math(isa.row_math) {}

    edge::Model model;
    edge::Encoder encoder;
    edge::TextDecoder decoder;
    const decoding::RowMath& row_math;
    // What short audio has behind it; null: not known yet. Read and set with the GIL held.
    std::shared_ptr<const edge::Silence> silence;
};

}  // namespace whisperq::python
