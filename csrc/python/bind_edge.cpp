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

// What `compute(mel, n_frames, out, should_stop)` makes of a mel spectrogram: [n_ctx, n_audio_state].
template <class F>
std::optional<Floats> encode_with(EdgeModel& model, const Floats& mel, int64_t n_ctx, py::object should_stop,
                                  const F& compute) {
    const model::Hparams& hparams = model.model.hparams();
    if (mel.ndim() != 2 || mel.shape(0) != hparams.n_mels || mel.shape(1) < 1) {
        throw Error(Status::audio, "mel must have the shape [" + std::to_string(hparams.n_mels) + ", frames]");
    }
    if (n_ctx < 1 || n_ctx > hparams.n_audio_ctx) {
        throw Error(Status::argument, "n_ctx has to be from 1 to " + std::to_string(hparams.n_audio_ctx));
    }
    Floats out = matrix(n_ctx, hparams.n_audio_state);
    const float* from = mel.data();
    float* to = out.mutable_data();
    const int64_t n_frames = mel.shape(1);
    return unless_stopped(std::move(out), std::move(should_stop),
                          [&](const auto& stop) { return compute(from, n_frames, to, stop); });
}

std::optional<Floats> encode(EdgeModel& model, const Floats& mel, int64_t n_ctx, py::object should_stop) {
    return encode_with(model, mel, n_ctx, std::move(should_stop),
                       [&](const float* from, int64_t n_frames, float* to, const auto& stop) {
                           return model.encoder.encode(from, n_frames, n_ctx, to, stop);
                       });
}

// ---- Short audio

using Silence = std::shared_ptr<const edge::Silence>;

Silence silence_of(const EdgeModel& model) {
    if (!model.silence) throw Error(Status::internal, "short audio before silence was learned");
    return model.silence;
}

bool learn_silence(EdgeModel& model, py::object should_stop) {
    binding::StopCheck stop(std::move(should_stop));
    Silence learned;
    {
        const binding::GilReleased released;
        learned = edge::learn_silence(model.encoder, model.decoder, model.model.hparams(), [&stop] { return stop(); });
    }
    stop.rethrow_error();
    if (learned) model.silence = std::move(learned);
    return model.silence != nullptr;
}

// A view of memory that `silence` owns.
py::array_t<uint8_t> view(const Silence& silence, const uint8_t* data, size_t n_bytes) {
    const py::capsule owner(new Silence(silence), [](void* held) { delete static_cast<Silence*>(held); });
    py::array_t<uint8_t> bytes(static_cast<py::ssize_t>(n_bytes), data, owner);
    bytes.attr("flags").attr("writeable") = false;
    return bytes;
}

// Not as one copy of all: for a large model that is 100 MB.
py::list silence_parts(const EdgeModel& model) {
    py::list parts;
    if (!model.silence) return parts;
    parts.append(view(model.silence, model.silence->pools().data(), model.silence->pools().size()));
    parts.append(view(model.silence, model.silence->audio().data(), model.silence->audio().n_bytes()));
    return parts;
}

void set_silence(EdgeModel& model, const py::buffer& known) {
    const py::buffer_info given = known.request();
    const auto n_bytes = static_cast<size_t>(given.size * given.itemsize);
    auto silence = std::make_shared<edge::Silence>(model.model.hparams(), model.decoder.audio_shape());
    if (n_bytes != silence->n_bytes()) {
        throw Error(Status::argument, "silence of this model has " + std::to_string(silence->n_bytes()) +
                                          " bytes, not " + std::to_string(n_bytes));
    }
    silence->read(static_cast<const uint8_t*>(given.ptr));
    model.silence = std::move(silence);
}

std::optional<Floats> encode_short(EdgeModel& model, const Floats& mel, int64_t n_ctx, py::object should_stop) {
    const Silence silence = silence_of(model);
    return encode_with(model, mel, n_ctx, std::move(should_stop),
                       [&](const float* from, int64_t n_frames, float* to, const auto& stop) {
                           return model.encoder.encode_short(from, n_frames, n_ctx, *silence, to, stop);
                       });
}

using Audio = std::shared_ptr<const edge::AudioCache>;

// What `compute(features, n_ctx, should_stop)` makes of audio features.
template <class F>
Audio listen_with(EdgeModel& model, const Floats& features, py::object should_stop, const F& compute) {
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
        audio = compute(from, n_ctx, [&stop] { return stop(); });
    }
    stop.rethrow_error();
    return audio;
}

Audio listen(EdgeModel& model, const Floats& features, py::object should_stop) {
    return listen_with(
        model, features, std::move(should_stop),
        [&](const float* from, int64_t n_ctx, const auto& stop) { return model.decoder.listen(from, n_ctx, stop); });
}

Audio listen_short(EdgeModel& model, const Floats& features, py::object should_stop) {
    const Silence silence = silence_of(model);
    return listen_with(model, features, std::move(should_stop),
                       [&](const float* from, int64_t n_ctx, const auto& stop) {
                           return model.decoder.listen_short(from, n_ctx, *silence, stop);
                       });
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
    held["silence"] = model.silence ? model.silence->n_bytes() : 0;
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
        .def("listen_short", &listen_short, py::arg("audio_features"), py::arg("should_stop") = py::none())
        .def("learn_silence", &learn_silence, py::arg("should_stop") = py::none())
        .def("set_silence", &set_silence, py::arg("known"))
        .def_property_readonly("silence", &silence_parts)
        .def("logits", &logits, py::arg("audio"), py::arg("tokens"), py::arg("first") = 0,
             py::arg("should_stop") = py::none())
        .def_property_readonly("hparams", [](const EdgeModel& model) { return hparams_dict(model.model.hparams()); })
        .def_property_readonly("isa", [](const EdgeModel& model) { return model.model.kernels().isa; })
        .def_property_readonly("n_threads", [](EdgeModel& model) { return model.model.pool().size(); })
        .def_property_readonly("memory", &memory);
    m.attr("SHORT_STEP") = edge::Silence::kPool;
    m.def("isas", &isa_list, "Every instruction set of the kernels: whether it is built, and supported by CPU and OS.");
    m.def("chosen_isa", [] { return std::string(dispatch::chosen_isa().name()); });
}

}  // namespace whisperq::python
