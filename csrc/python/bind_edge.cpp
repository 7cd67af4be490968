// `_core.EdgeModel`: Whisper on our own kernels; and the kernels that there are.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "binding/gil.h"
#include "binding/stop_check.h"
#include "core/cpu_count.h"
#include "core/status.h"
#include "dispatch/isas.h"
#include "python/arrays.h"
#include "python/bindings.h"
#include "python/edge_model.h"

namespace py = pybind11;

namespace whisperq::python {
namespace {

Floats matrix(int64_t n_rows, int64_t n_columns) {
    return Floats({static_cast<py::ssize_t>(n_rows), static_cast<py::ssize_t>(n_columns)});
}

std::unique_ptr<EdgeModel> open_model(const std::filesystem::path& path, const std::string& isa, int n_threads) {
    const dispatch::Isa& chosen = dispatch::isa_for(isa);
    const binding::GilReleased released;
    return std::make_unique<EdgeModel>(path, chosen, n_threads > 0 ? n_threads : usable_cpus());
}

// What `compute(should_stop)` does without the GIL; None for `out` where that said False: it was told to stop.
template <class T, class F>
std::optional<T> unless_stopped(T out, py::object should_stop, const F& compute) {
    binding::StopCheck stop(std::move(should_stop));
    bool is_whole;
    {
        const binding::GilReleased released;
        is_whole = compute([&stop] { return stop(); });
    }
    stop.rethrow_error();
    return is_whole ? std::optional<T>(std::move(out)) : std::nullopt;
}

std::optional<Floats> encode(EdgeModel& model, const Floats& mel, int64_t n_ctx, py::object should_stop) {
    const model::Hparams& hparams = model.model.hparams();
    if (mel.ndim() != 2 || mel.shape(0) != hparams.n_mels || mel.shape(1) < 1) {
        throw Error(Status::audio, "mel must have the shape [" + std::to_string(hparams.n_mels) + ", frames]");
    }
    Floats out = matrix(n_ctx, hparams.n_audio_state);
    const float* from = mel.data();
    float* to = out.mutable_data();
    const int64_t n_frames = mel.shape(1);
    return unless_stopped(std::move(out), std::move(should_stop),
                          [&](const auto& stop) { return model.encoder.encode(from, n_frames, n_ctx, to, stop); });
}

std::optional<Floats> encode_short(EdgeModel& model, const Floats& mel, int64_t n_ctx, py::object should_stop) {
    const model::Hparams& hparams = model.model.hparams();
    if (mel.ndim() != 2 || mel.shape(0) != hparams.n_mels || mel.shape(1) < 1) {
        throw Error(Status::audio, "mel must have the shape [" + std::to_string(hparams.n_mels) + ", frames]");
    }
    Floats out = matrix(model.encoder.short_rows(n_ctx), hparams.n_audio_state);
    const float* from = mel.data();
    float* to = out.mutable_data();
    const int64_t n_frames = mel.shape(1);
    return unless_stopped(std::move(out), std::move(should_stop), [&](const auto& stop) {
        return model.encoder.encode_short(from, n_frames, n_ctx, to, stop);
    });
}

using Audio = std::shared_ptr<const edge::AudioCache>;

Audio listen(EdgeModel& model, const Floats& features, py::object should_stop) {
    const int64_t n_state = model.model.hparams().n_audio_state;
    if (features.ndim() != 2 || features.shape(1) != n_state) {
        throw Error(Status::audio, "audio features must have the shape [tokens, " + std::to_string(n_state) + "]");
    }
    const float* from = features.data();
    const int64_t n_ctx = features.shape(0);
    Audio audio;
    binding::StopCheck stop(std::move(should_stop));
    {
        const binding::GilReleased released;
        audio = model.decoder.listen(from, n_ctx, [&stop] { return stop(); });
    }
    stop.rethrow_error();
    return audio;
}

std::optional<Floats> logits(EdgeModel& model, const Audio& audio, const std::vector<int32_t>& tokens, int64_t first,
                             py::object should_stop) {
    const auto n_tokens = static_cast<int64_t>(tokens.size());
    if (first < 0 || first >= n_tokens) throw Error(Status::internal, "logits: first is not one of the tokens");
    Floats out = matrix(n_tokens - first, model.decoder.n_vocab());
    edge::Pass pass;
    pass.tokens = tokens.data();
    pass.n_tokens = n_tokens;
    pass.first_logits = first;
    float* to = out.mutable_data();
    return unless_stopped(std::move(out), std::move(should_stop), [&](const auto& stop) {
        const std::unique_ptr<edge::Sequence> sequence = model.decoder.begin(audio);
        pass.sequence = sequence.get();
        return model.decoder.decode({pass}, to, stop);
    });
}

// What it holds now, by the names of edge_memory().
py::dict memory(EdgeModel& model) {
    size_t machine = 0, encoder = 0, decoder = 0;
    {
        const binding::GilReleased released;
        const Turn::Taken taken = model.model.turn().take();
        machine = model.model.machine().n_bytes();
        encoder = model.encoder.n_bytes();
        decoder = model.decoder.n_bytes();
    }
    py::dict held;
    held["weights"] = model.model.weight_bytes();
    held["encoder"] = encoder;
    held["decoder"] = decoder;
    held["machine"] = machine;
    return held;
}

py::list isa_list() {
    py::list found;
    for (const dispatch::IsaInfo& isa : dispatch::isas()) {
        py::dict row;
        row["name"] = isa.name;
        row["built"] = isa.is_built();
        row["supported"] = isa.supported;
        found.append(row);
    }
    return found;
}

}  // namespace

void bind_edge(py::module_& m) {
    py::class_<edge::AudioCache, std::shared_ptr<edge::AudioCache>>(
        m, "EdgeAudio", "What the decoder keeps of a window's audio: keys and values of its cross attention.")
        .def_property_readonly("n_ctx", &edge::AudioCache::n_ctx)
        .def_property_readonly("n_bytes", &edge::AudioCache::n_bytes);
    py::class_<EdgeModel>(m, "EdgeModel")
        .def(py::init(&open_model), py::arg("path"), py::arg("isa") = "auto", py::arg("n_threads") = 0)
        .def("encode", &encode, py::arg("mel"), py::arg("n_ctx"), py::arg("should_stop") = py::none())
        .def("encode_short", &encode_short, py::arg("mel"), py::arg("n_ctx"), py::arg("should_stop") = py::none())
        .def("listen", &listen, py::arg("audio_features"), py::arg("should_stop") = py::none())
        .def("logits", &logits, py::arg("audio"), py::arg("tokens"), py::arg("first") = 0,
             py::arg("should_stop") = py::none())
        .def_property_readonly("hparams", [](const EdgeModel& model) { return hparams_dict(model.model.hparams()); })
        .def_property_readonly("isa", [](const EdgeModel& model) { return model.model.kernels().isa; })
        .def_property_readonly("n_threads", [](EdgeModel& model) { return model.model.pool().size(); })
        .def_property_readonly("memory", &memory);
    m.def("isas", &isa_list, "Every instruction set of the kernels: whether it is built, and supported by CPU and OS.");
    m.def("chosen_isa", [] { return std::string(dispatch::chosen_isa().name()); });
}

}  // namespace whisperq::python
