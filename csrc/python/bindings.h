// One bind function per concern; module.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

#include "model/architecture.h"

namespace whisperq::python {

// Adds to EdgeModel: after bind_edge.
void bind_activation_study(pybind11::module_& m);
void bind_audio(pybind11::module_& m);
void bind_cpu(pybind11::module_& m);
void bind_decoding(pybind11::module_& m);
void bind_edge(pybind11::module_& m);
void bind_memory(pybind11::module_& m);
void bind_model(pybind11::module_& m);
void bind_self_test(pybind11::module_& m);
void bind_vad(pybind11::module_& m);

// By whisper's names for them.
pybind11::dict hparams_dict(const model::Hparams& hparams);

}  // namespace whisperq::python
