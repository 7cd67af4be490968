// The extension `whisperq_edge._ggml`: the vendored whisper.cpp behind the engine interface. Imported only after
// _build.json's instruction sets were compared with this CPU's.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "binding/errors.h"
#include "binding/gil.h"
#include "binding/stop_check.h"
#include "ggml-backend.h"
#include "ggml/engine.h"
#include "ggml/log.h"
#include "ggml/quantize.h"
#include "ggml/vad.h"

namespace py = pybind11;

namespace whisperq::ggml {
namespace {

using binding::StopCheck;

using Samples = py::array_t<float, py::array::c_style>;

std::vector<std::pair<std::string, float>> as_pairs(const std::vector<Language>& ranking) {
    std::vector<std::pair<std::string, float>> pairs;
    for (const Language& language : ranking) pairs.emplace_back(language.code, language.probability);
    return pairs;
}

// The end of the process frees what whisper.cpp computes with, under a daemon thread that still computes. So the end
// asks every computation to stop and waits until it has; its thread does not return then, as nobody waits for what it
// found.
class Computation {
  public:
    Computation() { ++running_; }
    // Before the GIL is taken back.
    ~Computation() {
        --running_;
        if (shall_stop()) binding::wait_for_the_end();
    }
    Computation(const Computation&) = delete;
    Computation& operator=(const Computation&) = delete;

    // The thread that ends the process may still compute, in what atexit calls.
    static bool shall_stop() noexcept { return is_the_end_ && std::this_thread::get_id() != ending_; }
    // Without the GIL. What does not stop (a graph on a GPU) is not waited for much longer than a window takes.
    static void stop_all() {
        constexpr auto pause = std::chrono::milliseconds(2);
        constexpr int most_pauses = 5000;
        ending_ = std::this_thread::get_id();
        is_the_end_ = true;
        for (int i = 0; i < most_pauses && running_ > 0; ++i) std::this_thread::sleep_for(pause);
    }

  private:
    static std::atomic<int> running_;
    static std::thread::id ending_;
    static std::atomic<bool> is_the_end_;
};

std::atomic<int> Computation::running_{0};
std::thread::id Computation::ending_;
std::atomic<bool> Computation::is_the_end_{false};

class PythonObserver : public Observer {
  public:
    PythonObserver(py::object on_languages, py::object on_segment, py::object on_progress, py::object should_stop)
        : on_languages_(std::move(on_languages)),
          on_segment_(std::move(on_segment)),
          on_progress_(std::move(on_progress)),
          stop_(std::move(should_stop)) {}

    void on_languages(const std::vector<Language>& ranking) override { call(on_languages_, as_pairs(ranking)); }
    void on_segment(const SegmentData& segment) override { call(on_segment_, segment); }
    void on_progress(float fraction) override { call(on_progress_, fraction); }
    bool should_stop() noexcept override { return Computation::shall_stop() || stop_(); }
    void rethrow_error() const { stop_.rethrow_error(); }

  private:
    template <typename... Arguments>
    static void call(const py::object& function, const Arguments&... arguments) {
        binding::with_gil([&] {
            if (!function.is_none()) function(arguments...);
        });
    }

    py::object on_languages_, on_segment_, on_progress_;
    StopCheck stop_;
};

const float* checked(const Samples& samples) {
    if (samples.ndim() != 1) throw Error(Status::audio, "samples must be one-dimensional");
    return samples.data();
}

py::dict as_dict(const StateTimings& timings) {
    py::dict stages;
    const auto add = [&](const char* stage, const StageCounter& counter) {
        stages[stage] = py::make_tuple(static_cast<double>(counter.us) / 1000.0, counter.runs);
    };
    add("mel", timings.mel);
    add("encode", timings.encode);
    add("prompt", timings.prompt);
    add("decode", timings.decode);
    add("batchd", timings.batchd);
    add("sample", timings.sample);
    return stages;
}

py::dict transcribe(const Engine& engine, const Samples& samples, const TranscribeOptions& options,
                    py::object on_languages, py::object on_segment, py::object on_progress, py::object should_stop) {
    const float* data = checked(samples);
    const int n_samples = static_cast<int>(samples.size());
    PythonObserver observer(std::move(on_languages), std::move(on_segment), std::move(on_progress),
                            std::move(should_stop));
    TranscribeResult result;
    {
        const binding::GilReleased released;
        const Computation computation;
        result = engine.transcribe(data, n_samples, options, observer);
    }
    observer.rethrow_error();
    py::dict out;
    out["timings"] = as_dict(result.timings);
    out["stopped"] = result.stopped;
    return out;
}

py::array_t<float> speech_probabilities(Vad& vad, const Samples& samples, py::object should_stop) {
    const float* data = checked(samples);
    const auto n_samples = static_cast<size_t>(samples.size());
    StopCheck stop(std::move(should_stop));
    std::vector<float> probabilities;
    {
        const binding::GilReleased released;
        const Computation computation;
        probabilities = vad.probabilities(data, n_samples, [&] { return Computation::shall_stop() || stop(); });
    }
    stop.rethrow_error();
    return py::array_t<float>(static_cast<py::ssize_t>(probabilities.size()), probabilities.data());
}

[[noreturn]] void raise_cancelled(const char* message) {
    const py::object error = py::module_::import("whisperq_edge._errors").attr("CancelledError");
    PyErr_SetString(error.ptr(), message);
    throw py::error_already_set();
}

py::array_t<float> matrix(py::ssize_t n_rows, py::ssize_t n_columns) {
    return py::array_t<float>(std::vector<py::ssize_t>{n_rows, n_columns});
}

py::dict as_dict(const std::vector<InputStatistics>& statistics) {
    py::dict inputs;
    for (const InputStatistics& input : statistics) {
        const py::array_t<double> sums(static_cast<py::ssize_t>(input.sum_squares.size()), input.sum_squares.data());
        inputs[py::str(input.name)] = py::make_tuple(input.n_vectors, sums);
    }
    return inputs;
}

py::dict probe(const Engine& engine, const Samples& samples, std::vector<std::vector<whisper_token>> sequences,
               int n_threads, int tokens_per_call, bool statistics, int audio_ctx, py::object should_stop) {
    StopCheck stop(std::move(should_stop));
    ProbeRequest request;
    request.samples = checked(samples);
    request.n_samples = samples.size();
    request.sequences = std::move(sequences);
    request.n_threads = n_threads;
    request.tokens_per_call = tokens_per_call;
    request.statistics = statistics;
    request.audio_ctx = audio_ctx;
    request.should_stop = [&] { return Computation::shall_stop() || stop(); };
    const ProbeShape shape = engine.check_probe(request);

    py::array_t<float> features = matrix(shape.n_audio_ctx, shape.n_audio_state);
    py::list logits;
    ProbeOutput output;
    output.audio_features = features.mutable_data();
    for (const auto& tokens : request.sequences) {
        py::array_t<float> one = matrix(static_cast<py::ssize_t>(tokens.size()), shape.n_vocab);
        output.logits.push_back(one.mutable_data());
        logits.append(std::move(one));
    }
    ProbeResult result;
    {
        const binding::GilReleased released;
        const Computation computation;
        result = engine.probe(request, output);
    }
    stop.rethrow_error();
    if (result.stopped) raise_cancelled("the probe was stopped");
    py::dict out;
    out["audio_features"] = std::move(features);
    out["logits"] = std::move(logits);
    out["encode_ms"] = result.encode_ms;
    out["decode_ms"] = result.decode_ms;
    out["statistics"] = as_dict(result.statistics);
    return out;
}

using Floats = std::optional<py::array_t<float, py::array::c_style>>;

RowsToQuantize rows_from(const py::buffer_info& buffer, const std::string& type, int64_t row_size,
                         const Floats& row_scales) {
    RowsToQuantize rows;
    rows.bytes = static_cast<const uint8_t*>(buffer.ptr);
    rows.n_bytes = static_cast<uint64_t>(buffer.size * buffer.itemsize);
    rows.type = type;
    rows.row_size = row_size;
    if (row_scales) {
        rows.row_scales = row_scales->data();
        rows.n_row_scales = row_scales->size();
    }
    return rows;
}

py::tuple quantize(const py::buffer& source, const std::string& source_type, int64_t row_size, const std::string& type,
                   const Floats& row_scales, const Floats& column_weights) {
    const py::buffer_info buffer = source.request();
    if (column_weights && column_weights->size() != row_size) {
        throw Error(Status::internal, "quantize_rows: column_weights must have one value for each column");
    }
    const float* weights = column_weights ? column_weights->data() : nullptr;
    const RowsToQuantize rows = rows_from(buffer, source_type, row_size, row_scales);
    QuantizedRows result;
    {
        const binding::GilReleased released;
        result = quantize_rows(rows, type, weights);
    }
    const py::bytes bytes(reinterpret_cast<const char*>(result.bytes.data()), result.bytes.size());
    return py::make_tuple(bytes, result.error);
}

py::array_t<float> dequantize(const py::buffer& source, const std::string& source_type, int64_t row_size,
                              const Floats& row_scales) {
    const py::buffer_info buffer = source.request();
    const RowsToQuantize rows = rows_from(buffer, source_type, row_size, row_scales);
    std::vector<float> values;
    {
        const binding::GilReleased released;
        values = dequantize_rows(rows);
    }
    return py::array_t<float>({static_cast<py::ssize_t>(values.size()) / row_size, row_size}, values.data());
}

const char* kind_of(enum ggml_backend_dev_type type) {
    switch (type) {
        case GGML_BACKEND_DEVICE_TYPE_CPU:
            return "cpu";
        case GGML_BACKEND_DEVICE_TYPE_GPU:
            return "gpu";
        case GGML_BACKEND_DEVICE_TYPE_IGPU:
            return "gpu";
        default:
            return "accelerator";
    }
}

py::list devices() {
    py::list found;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        py::dict entry;
        entry["name"] = ggml_backend_dev_name(device);
        entry["backend"] = ggml_backend_reg_name(ggml_backend_dev_backend_reg(device));
        entry["description"] = ggml_backend_dev_description(device);
        entry["kind"] = kind_of(ggml_backend_dev_type(device));
        found.append(entry);
    }
    return found;
}

void bind_quantize(py::module_& m) {
    py::class_<RowError>(m, "RowError")
        .def_readonly("n_values", &RowError::n_values)
        .def_readonly("sum_squares", &RowError::sum_squares)
        .def_readonly("sum_squared_error", &RowError::sum_squared_error)
        .def_readonly("weighted_squares", &RowError::weighted_squares)
        .def_readonly("weighted_squared_error", &RowError::weighted_squared_error)
        .def_readonly("max_error", &RowError::max_error)
        .def_readonly("first_not_finite", &RowError::first_not_finite)
        .def_readonly("first_overflow", &RowError::first_overflow)
        .def_readonly("first_overflow_value", &RowError::first_overflow_value);
    m.def("quantize_rows", &quantize, py::arg("source"), py::arg("source_type"), py::arg("row_size"), py::arg("type"),
          py::kw_only(), py::arg("row_scales") = py::none(), py::arg("column_weights") = py::none());
    m.def("dequantize_rows", &dequantize, py::arg("source"), py::arg("source_type"), py::arg("row_size"), py::kw_only(),
          py::arg("row_scales") = py::none());
    m.attr("quantizer_version") = quantizer_version();
}

void bind_options(py::module_& m) {
    py::class_<LogitsFilter>(m, "LogitsFilter")
        .def(py::init<>())
        .def_readwrite("repetition_penalty", &LogitsFilter::repetition_penalty)
        .def_readwrite("no_repeat_ngram_size", &LogitsFilter::no_repeat_ngram_size)
        .def_readwrite("suppress", &LogitsFilter::suppress);
    py::class_<TranscribeOptions>(m, "TranscribeOptions")
        .def(py::init<>())
        .def_readwrite("n_threads", &TranscribeOptions::n_threads)
        .def_readwrite("language", &TranscribeOptions::language)
        .def_readwrite("translate", &TranscribeOptions::translate)
        .def_readwrite("beam_size", &TranscribeOptions::beam_size)
        .def_readwrite("best_of", &TranscribeOptions::best_of)
        .def_readwrite("temperature", &TranscribeOptions::temperature)
        .def_readwrite("temperature_increment", &TranscribeOptions::temperature_increment)
        .def_readwrite("logprob_threshold", &TranscribeOptions::logprob_threshold)
        .def_readwrite("entropy_threshold", &TranscribeOptions::entropy_threshold)
        .def_readwrite("no_speech_threshold", &TranscribeOptions::no_speech_threshold)
        .def_readwrite("condition_on_previous_text", &TranscribeOptions::condition_on_previous_text)
        .def_readwrite("initial_prompt", &TranscribeOptions::initial_prompt)
        .def_readwrite("prompt_tokens", &TranscribeOptions::prompt_tokens)
        .def_readwrite("carry_initial_prompt", &TranscribeOptions::carry_initial_prompt)
        .def_readwrite("suppress_blank", &TranscribeOptions::suppress_blank)
        .def_readwrite("suppress_non_speech", &TranscribeOptions::suppress_non_speech)
        .def_readwrite("without_timestamps", &TranscribeOptions::without_timestamps)
        .def_readwrite("max_initial_timestamp", &TranscribeOptions::max_initial_timestamp)
        .def_readwrite("token_timestamps", &TranscribeOptions::token_timestamps)
        .def_readwrite("max_new_tokens", &TranscribeOptions::max_new_tokens)
        .def_readwrite("clips_ms", &TranscribeOptions::clips_ms)
        .def_readwrite("language_window", &TranscribeOptions::language_window)
        .def_readwrite("filter", &TranscribeOptions::filter);
}

void bind_segment(py::module_& m) {
    py::class_<TokenPiece>(m, "TokenPiece")
        .def_readonly("id", &TokenPiece::id)
        .def_property_readonly("bytes", [](const TokenPiece& piece) { return py::bytes(piece.bytes); })
        .def_readonly("start_cs", &TokenPiece::start_cs)
        .def_readonly("end_cs", &TokenPiece::end_cs)
        .def_readonly("probability", &TokenPiece::probability);
    py::class_<SegmentData>(m, "SegmentData")
        .def_readonly("seek_frames", &SegmentData::seek_frames)
        .def_readonly("start_cs", &SegmentData::start_cs)
        .def_readonly("end_cs", &SegmentData::end_cs)
        .def_property_readonly("text", [](const SegmentData& segment) { return py::bytes(segment.text); })
        .def_readonly("tokens", &SegmentData::tokens)
        .def_readonly("pieces", &SegmentData::pieces)
        .def_readonly("temperature", &SegmentData::temperature)
        .def_readonly("avg_logprob", &SegmentData::avg_logprob)
        .def_readonly("no_speech_prob", &SegmentData::no_speech_prob)
        .def_property_readonly("window_text",
                               [](const SegmentData& segment) { return py::bytes(segment.window_text); });
}

void bind_engine(py::module_& m) {
    py::class_<Engine>(m, "Engine")
        .def(py::init<const std::string&, bool, int, bool, const MatrixTypes&>(), py::arg("path"), py::arg("use_gpu"),
             py::arg("gpu_device"), py::arg("flash_attention"), py::arg("matrix_types") = MatrixTypes{},
             py::call_guard<binding::GilReleased>())
        .def("transcribe", &transcribe, py::arg("samples"), py::arg("options"), py::kw_only(),
             py::arg("on_languages") = py::none(), py::arg("on_segment") = py::none(),
             py::arg("on_progress") = py::none(), py::arg("should_stop") = py::none())
        .def("probe", &probe, py::arg("samples"), py::arg("sequences"), py::kw_only(), py::arg("n_threads"),
             py::arg("tokens_per_call") = 0, py::arg("statistics") = false, py::arg("audio_ctx") = 0,
             py::arg("should_stop") = py::none())
        .def("tokenize", &Engine::tokenize, py::arg("text"))
        .def_property_readonly("is_multilingual", &Engine::is_multilingual)
        .def_property_readonly("n_vocab", &Engine::n_vocab);
    py::class_<Vad>(m, "Vad")
        .def(py::init<const std::string&, int>(), py::arg("path"), py::arg("n_threads"),
             py::call_guard<binding::GilReleased>())
        .def("probabilities", &speech_probabilities, py::arg("samples"), py::kw_only(),
             py::arg("should_stop") = py::none());
}

}  // namespace
}  // namespace whisperq::ggml

PYBIND11_MODULE(_ggml, m) {
    using namespace whisperq::ggml;
    m.attr("__version__") = WHISPERQ_VERSION;
    m.attr("max_decoders") = max_decoders();
    whisperq::binding::register_errors();
    capture_logs();
    py::module_::import("atexit").attr("register")(
        py::cpp_function(&Computation::stop_all, py::call_guard<whisperq::binding::GilReleased>()));
    m.def("devices", &devices, "Devices that the compiled-in backends see: name, backend, description, kind.");
    m.def("take_log", [] {
        py::list lines;
        for (const LogLine& line : take_log())
            lines.append(py::make_tuple(line.level, py::str(py::bytes(line.text).attr("decode")("utf-8", "replace"))));
        return lines;
    });
    bind_quantize(m);
    bind_options(m);
    bind_segment(m);
    bind_engine(m);
}
