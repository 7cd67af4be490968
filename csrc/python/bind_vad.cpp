// `_core.Vad`: silero's voice detector on our own kernels, for whole clips and for streams.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "binding/gil.h"
#include "binding/stop_check.h"
#include "core/status.h"
#include "dispatch/isas.h"
#include "python/arrays.h"
#include "python/bindings.h"
#include "vad/network.h"
#include "vad/stream.h"

namespace py = pybind11;

namespace whisperq::python {
namespace {

Floats array_of(const std::vector<float>& values) {
    return Floats(static_cast<py::ssize_t>(values.size()), values.data());
}

// Audio that comes in pieces, for one Python thread at a time.
class Stream {
  public:
    explicit Stream(std::shared_ptr<const vad::Network> network) : stream_(std::move(network)) {}

    Floats feed(const py::array& audio) {
        const Floats samples = checked_pcm(audio, "samples");
        const float* from = samples.data();
        const int64_t n_samples = samples.shape(0);
        return collect([&](std::vector<float>& found) { stream_.feed(from, n_samples, found); });
    }

    Floats finish() {
        return collect([&](std::vector<float>& found) { stream_.finish(found); });
    }

  private:
    template <class F>
    Floats collect(const F& produce) {
        std::vector<float> found;
        {
            const binding::GilReleased released;
            const std::lock_guard<std::mutex> lock(mutex_);
            produce(found);
        }
        return array_of(found);
    }

    vad::Stream stream_;
    std::mutex mutex_;
};

// A network. Every clip, and every caller of stream(), has a stream of its own.
class Vad {
  public:
    Vad(const std::filesystem::path& path, const std::string& isa) : network_(load(path, isa)) {}

    std::string isa() const { return network_->kernels().isa; }
    std::unique_ptr<Stream> stream() const { return std::make_unique<Stream>(network_); }

    Floats probabilities(const py::array& audio, py::object should_stop) const {
        const Floats samples = checked_pcm(audio, "samples");
        const float* from = samples.data();
        const int64_t n_samples = samples.shape(0);
        binding::StopCheck stop(std::move(should_stop));
        std::vector<float> found;
        {
            const binding::GilReleased released;
            found = whole(from, n_samples, stop);
        }
        stop.rethrow_error();
        return array_of(found);
    }

  private:
    static std::shared_ptr<const vad::Network> load(const std::filesystem::path& path, const std::string& isa) {
        const kernels::KernelTable& table = dispatch::isa_for(isa).kernels;
        const binding::GilReleased released;
        return std::make_shared<const vad::Network>(path, table);
    }

    std::vector<float> whole(const float* samples, int64_t n_samples, binding::StopCheck& stop) const {
        constexpr int64_t window = vad::Network::kWindowSamples, batch = vad::Stream::kBatch * window;
        vad::Stream stream(network_);
        std::vector<float> found;
        found.reserve(static_cast<size_t>((n_samples + window - 1) / window));
        for (int64_t at = 0; at < n_samples; at += batch) {
            if (stop()) return found;
            stream.feed(samples + at, std::min(batch, n_samples - at), found);
        }
        stream.finish(found);
        return found;
    }

    std::shared_ptr<const vad::Network> network_;
};

}  // namespace

void bind_vad(py::module_& m) {
    py::class_<Stream>(m, "VadStream", "The voice detector over audio in pieces; `_core.Vad.stream` makes one.")
        .def("feed", &Stream::feed, py::arg("samples"))
        .def("finish", &Stream::finish);
    py::class_<Vad>(m, "Vad", "Probability of speech (silero) for every started window of 512 samples at 16 kHz.")
        .def(py::init<const std::filesystem::path&, const std::string&>(), py::arg("path"), py::arg("isa") = "auto")
        .def("probabilities", &Vad::probabilities, py::arg("samples"), py::arg("should_stop") = py::none())
        .def("stream", &Vad::stream)
        .def_property_readonly("isa", &Vad::isa);
}

}  // namespace whisperq::python
