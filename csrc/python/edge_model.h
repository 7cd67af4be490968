// What `_core.EdgeModel` holds: bindings of the encoder and of decoding share it.
#pragma once

#include <filesystem>

#include "edge/decoder.h"
#include "edge/encoder.h"
#include "edge/model.h"

namespace whisperq::python {

struct EdgeModel {
    EdgeModel(const std::filesystem::path& path, const kernels::KernelTable& kernels, int n_threads)
        : model(path, kernels, n_threads), encoder(model), decoder(model) {}

    edge::Model model;
    edge::Encoder encoder;
    edge::TextDecoder decoder;
};

}  // namespace whisperq::python
