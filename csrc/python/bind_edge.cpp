// `_core.EdgeEncoder`: Whisper's encoder on our own kernels; and the kernels that there are.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>
#include <memory>
#include <string>

#include "core/cpu_count.h"
#include "core/status.h"
#include "edge/encoder.h"
#include "kernels/dispatch.h"
#include "python/bindings.h"
#include "python/gil.h"

namespace py = pybind11;

namespace whisperq::python {
namespace {

using Floats = py::array_t<float, py::array::c_style>;

const kernels::KernelTable& table_named(const std::string& isa) {
    return isa.empty() || isa == "auto" ? kernels::chosen_kernels() : kernels::kernels_named(isa);
}

std::unique_ptr<edge::Encoder> open_encoder(const std::filesystem::path& path, const std::string& isa, int n_threads) {
    return std::make_unique<edge::Encoder>(path, table_named(isa), n_threads > 0 ? n_threads : usable_cpus());
}

Floats encode(edge::Encoder& encoder, const Floats& mel, int64_t n_ctx) {
    const model::Hparams& hparams = encoder.hparams();
    if (mel.ndim() != 2 || mel.shape(0) != hparams.n_mels || mel.shape(1) < 1) {
        throw Error(Status::audio, "mel must have the shape [" + std::to_string(hparams.n_mels) + ", frames]");
    }
    Floats out({static_cast<py::ssize_t>(n_ctx), static_cast<py::ssize_t>(hparams.n_audio_state)});
    const float* from = mel.data();
    float* to = out.mutable_data();
    const int64_t n_frames = mel.shape(1);
    {
        const GilReleased released;
        encoder.encode(from, n_frames, n_ctx, to);
    }
    return out;
}

py::list isa_list() {
    py::list found;
    for (const kernels::IsaInfo& isa : kernels::isas()) {
        py::dict row;
        row["name"] = isa.name;
        row["built"] = isa.built;
        row["supported"] = isa.supported;
        found.append(row);
    }
    return found;
}

}  // namespace

void bind_edge(py::module_& m) {
    py::class_<edge::Encoder>(m, "EdgeEncoder")
        .def(py::init(&open_encoder), py::arg("path"), py::arg("isa") = "auto", py::arg("n_threads") = 0,
             py::call_guard<py::gil_scoped_release>())
        .def("encode", &encode, py::arg("mel"), py::arg("n_ctx"))
        .def_property_readonly("isa", &edge::Encoder::isa)
        .def_property_readonly("n_threads", &edge::Encoder::n_threads)
        .def_property_readonly("packed_bytes", &edge::Encoder::packed_bytes);
    m.def("isas", &isa_list, "Every instruction set of the kernels: whether it is built, and supported by CPU and OS.");
    m.def("chosen_isa", [] { return std::string(kernels::chosen_kernels().isa); });
}

}  // namespace whisperq::python
