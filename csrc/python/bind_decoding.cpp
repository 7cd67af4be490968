// `_core.decode_windows` and `_core.align_windows`: windows of audio into tokens, and the times of these.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/gil.h"
#include "binding/stop_check.h"
#include "core/status.h"
#include "decoding/align.h"
#include "decoding/decode_options.h"
#include "decoding/decode_windows.h"
#include "decoding/edge_language_model.h"
#include "python/bindings.h"
#include "python/edge_model.h"

namespace py = pybind11;

namespace whisperq::python {
namespace {

using decoding::AlignOptions;
using decoding::AlignRequest;
using decoding::AlignResult;
using decoding::DecodeOptions;
using decoding::DecodeStages;
using decoding::EdgeLanguageModel;
using decoding::WindowRequest;
using decoding::WindowResult;

using Audios = std::vector<std::shared_ptr<edge::AudioCache>>;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

EdgeLanguageModel language_model(EdgeModel& model, const Audios& audios) {
    for (const auto& audio : audios) {
        if (!audio) throw Error(Status::argument, "one of the audios is None; each has to be of EdgeModel.listen()");
    }
    return {model.decoder, {audios.begin(), audios.end()}, model.row_math};
}

py::dict as_dict(const DecodeStages& stages) {
    py::dict dict;
    const auto add = [&](const char* name, const decoding::Stage& stage) {
        dict[name] = py::make_tuple(static_cast<double>(stage.us) / 1000.0, stage.runs);
    };
    add("prompt", stages.prompt);
    add("decode", stages.decode);
    add("batchd", stages.batchd);
    add("sample", stages.sample);
    return dict;
}

// What `compute(should_stop, stages)` returns without the GIL, and the stages.
template <class F>
py::tuple computed(py::object should_stop, const F& compute) {
    binding::StopCheck stop(std::move(should_stop));
    DecodeStages stages;
    const std::function<bool()> is_over = [&stop] { return stop(); };
    decltype(compute(is_over, stages)) results;
    {
        const binding::GilReleased released;
        results = compute(is_over, stages);
    }
    stop.rethrow_error();
    return py::make_tuple(std::move(results), as_dict(stages));
}

py::tuple decode_windows(EdgeModel& model, const Audios& audios, const std::vector<WindowRequest>& requests,
                         const DecodeOptions& options, py::object should_stop) {
    EdgeLanguageModel windows = language_model(model, audios);
    const DecodeOptions own = options;  // Python may change its while we compute
    return computed(std::move(should_stop), [&](const auto& stop, DecodeStages& stages) {
        return decoding::decode_windows(windows, requests, own, stop, stages);
    });
}

py::tuple align_windows(EdgeModel& model, const Audios& audios, const std::vector<AlignRequest>& requests,
                        std::vector<std::pair<int, int>> heads, int32_t eot, int32_t no_timestamps,
                        py::object should_stop) {
    EdgeLanguageModel windows = language_model(model, audios);
    const AlignOptions options{eot, no_timestamps, std::move(heads)};
    return computed(std::move(should_stop), [&](const auto& stop, DecodeStages& stages) {
        return decoding::align_windows(windows, requests, options, stop, stages);
    });
}

template <class T>
py::array_t<T> as_array(const std::vector<T>& values) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::tuple dtw(const Doubles& cost) {
    if (cost.ndim() != 2 || cost.shape(0) < 1 || cost.shape(1) < 1) {
        throw Error(Status::argument, "cost has to be a matrix [n, m] with n and m from 1");
    }
    const decoding::AlignmentPath path = decoding::dtw(cost.data(), cost.shape(0), cost.shape(1));
    return py::make_tuple(as_array(path.text_indices), as_array(path.time_indices));
}

Floats median_filter(const Floats& x, int64_t width) {
    if (width < 1 || width % 2 == 0) {
        throw Error(Status::argument, "width is " + std::to_string(width) + "; it has to be odd, and 1 or more");
    }
    if (x.ndim() < 1) throw Error(Status::argument, "x has to be an array of one dimension or more");
    Floats out(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
    const py::ssize_t n = x.shape(x.ndim() - 1);
    for (py::ssize_t i = 0; n > 0 && i < x.size() / n; ++i) {
        decoding::median_filter(x.data() + i * n, n, width, out.mutable_data() + i * n);
    }
    return out;
}

void bind_options(py::module_& m) {
    py::class_<DecodeOptions>(m, "DecodeOptions", "What windows are decoded with, by openai/whisper's names.")
        .def(py::init<>())
        .def_readwrite("eot", &DecodeOptions::eot)
        .def_readwrite("no_speech", &DecodeOptions::no_speech)
        .def_readwrite("no_timestamps", &DecodeOptions::no_timestamps)
        .def_readwrite("timestamp_begin", &DecodeOptions::timestamp_begin)
        .def_readwrite("blank", &DecodeOptions::blank)
        .def_readwrite("suppress_tokens", &DecodeOptions::suppress_tokens)
        .def_readwrite("temperature", &DecodeOptions::temperature)
        .def_readwrite("beam_size", &DecodeOptions::beam_size)
        .def_readwrite("best_of", &DecodeOptions::best_of)
        .def_readwrite("patience", &DecodeOptions::patience)
        .def_readwrite("length_penalty", &DecodeOptions::length_penalty)
        .def_readwrite("sample_len", &DecodeOptions::sample_len)
        .def_readwrite("suppress_blank", &DecodeOptions::suppress_blank)
        .def_readwrite("without_timestamps", &DecodeOptions::without_timestamps)
        .def_readwrite("max_initial_timestamp_index", &DecodeOptions::max_initial_timestamp_index)
        .def_readwrite("repetition_penalty", &DecodeOptions::repetition_penalty)
        .def_readwrite("no_repeat_ngram_size", &DecodeOptions::no_repeat_ngram_size)
        .def_readwrite("seed", &DecodeOptions::seed);
}

void bind_windows(py::module_& m) {
    py::class_<WindowRequest>(m, "WindowRequest", "The prompt of a window.")
        .def(py::init([](std::vector<int32_t> tokens, int64_t sot_index, uint64_t stream, int64_t n_prefix) {
                 return WindowRequest{std::move(tokens), sot_index, stream, n_prefix};
             }),
             py::arg("tokens"), py::arg("sot_index"), py::arg("stream") = 0, py::arg("n_prefix") = 0)
        .def_readonly("tokens", &WindowRequest::tokens)
        .def_readonly("sot_index", &WindowRequest::sot_index)
        .def_readonly("stream", &WindowRequest::stream)
        .def_readonly("n_prefix", &WindowRequest::n_prefix);
    py::class_<WindowResult>(m, "WindowResult", "What was decoded from a window.")
        .def_readonly("tokens", &WindowResult::tokens)
        .def_readonly("sum_logprob", &WindowResult::sum_logprob)
        .def_readonly("avg_logprob", &WindowResult::avg_logprob)
        .def_readonly("no_speech_prob", &WindowResult::no_speech_prob)
        .def_readonly("is_complete", &WindowResult::is_complete);
    m.def("decode_windows", &decode_windows, py::arg("model"), py::arg("audios"), py::arg("requests"),
          py::arg("options"), py::arg("should_stop") = py::none(),
          "Decodes windows together. Returns a result for each, and stage -> (ms, runs).");
}

void bind_alignment(py::module_& m) {
    py::class_<AlignRequest>(m, "AlignRequest", "The text of a window whose times are wanted.")
        .def(py::init([](std::vector<int32_t> sot_sequence, std::vector<int32_t> text_tokens, int64_t n_audio_tokens) {
                 return AlignRequest{std::move(sot_sequence), std::move(text_tokens), n_audio_tokens};
             }),
             py::arg("sot_sequence"), py::arg("text_tokens"), py::arg("n_audio_tokens"))
        .def_readonly("sot_sequence", &AlignRequest::sot_sequence)
        .def_readonly("text_tokens", &AlignRequest::text_tokens)
        .def_readonly("n_audio_tokens", &AlignRequest::n_audio_tokens);
    py::class_<AlignResult>(m, "AlignResult", "Where the tokens of a window were heard.")
        .def_property_readonly("text_indices", [](const AlignResult& r) { return as_array(r.path.text_indices); })
        .def_property_readonly("time_indices", [](const AlignResult& r) { return as_array(r.path.time_indices); })
        .def_property_readonly("probabilities", [](const AlignResult& r) { return as_array(r.probabilities); })
        .def_readonly("is_complete", &AlignResult::is_complete);
    m.def("align_windows", &align_windows, py::arg("model"), py::arg("audios"), py::arg("requests"), py::kw_only(),
          py::arg("heads"), py::arg("eot"), py::arg("no_timestamps"), py::arg("should_stop") = py::none(),
          "Finds when the tokens of windows were said. Returns a result for each, and stage -> (ms, runs).");
    m.def("dtw", &dtw, py::arg("cost"), "The cheapest path through a matrix [n, m]: (text_indices, time_indices).");
    m.def("median_filter", &median_filter, py::arg("x"), py::arg("width") = decoding::kMedianWidth,
          "Median of `width` values around each, along the last dimension, reflected at its ends.");
}

}  // namespace

void bind_decoding(py::module_& m) {
    bind_options(m);
    bind_windows(m);
    bind_alignment(m);
}

}  // namespace whisperq::python
