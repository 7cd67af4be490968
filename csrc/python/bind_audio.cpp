// `_core.log_mel_spectrogram` and `_core.MelStream`: log-mel spectrograms of PCM.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "audio/mel.h"
#include "binding/gil.h"
#include "core/cpu_count.h"
#include "core/status.h"
#include "core/thread_pool.h"
#include "dispatch/isas.h"
#include "python/arrays.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace whisperq::python {
namespace {

constexpr int64_t kMostPadding = int64_t{24} * 3600 * audio::kSampleRate;  // a day, as for audio (_audio/pcm.py)

Floats checked_filters(const py::array& filters) {
    constexpr py::ssize_t kMostMels = 4096;
    const bool is_bank = filters.ndim() == 2 && filters.shape(0) >= 1 && filters.shape(0) <= kMostMels &&
                         filters.shape(1) == audio::kBins && py::isinstance<py::array_t<float>>(filters);
    if (!is_bank) {
        throw Error(Status::argument, "filters are an array of " + describe(filters) +
                                          "; they have to be float32 of shape (1 to " + std::to_string(kMostMels) +
                                          ", " + std::to_string(audio::kBins) + ")");
    }
    return readable(filters);
}

int64_t checked_padding(int64_t padding) {
    if (padding < 0 || padding > kMostPadding) {
        throw Error(Status::argument, "padding is " + std::to_string(padding) + " samples; it has to be from 0 to " +
                                          std::to_string(kMostPadding) + ", a day");
    }
    return padding;
}

ThreadPool& pool_of(int n_threads) {
    if (n_threads < 0) {
        throw Error(Status::argument,
                    "n_threads is " + std::to_string(n_threads) + "; it has to be 1 or more, or 0 for all");
    }
    return shared_pool(n_threads == 0 ? usable_cpus() : n_threads);
}

audio::Mel make_mel(const py::array& filters, const std::string& isa) {
    const Floats bank = checked_filters(filters);
    return audio::Mel(bank.data(), static_cast<int>(bank.shape(0)), dispatch::isa_for(isa).mel_frames);
}

Floats log_mel_spectrogram(const py::array& audio, const py::array& filters, int64_t padding, int n_threads,
                           const std::string& isa) {
    const Floats pcm = checked_pcm(audio, "pcm");
    const audio::Mel mel = make_mel(filters, isa);
    ThreadPool& pool = pool_of(n_threads);
    const int64_t n_frames = audio::count_frames(pcm.shape(0) + checked_padding(padding));
    Floats out({static_cast<py::ssize_t>(mel.n_mels()), static_cast<py::ssize_t>(n_frames)});
    const float* from = pcm.data();
    float* to = out.mutable_data();
    {
        const binding::GilReleased released;
        mel.compute(from, pcm.shape(0), padding, audio::Layout::mels_first, pool, to);
    }
    return out;
}

// An audio::MelStream with what it refers to, for one Python thread at a time.
class Stream {
  public:
    Stream(const py::array& filters, int n_threads, const std::string& isa)
        : mel_(make_mel(filters, isa)), stream_(mel_, pool_of(n_threads)) {}

    Floats push(const py::array& audio) {
        const Floats pcm = checked_pcm(audio, "pcm");
        const float* from = pcm.data();
        const int64_t n_samples = pcm.shape(0);
        return collect([&](std::vector<float>& frames) { stream_.push(from, n_samples, frames); });
    }

    Floats finish(int64_t padding) {
        checked_padding(padding);
        return collect([&](std::vector<float>& frames) { stream_.finish(padding, frames); });
    }

  private:
    template <class F>
    Floats collect(const F& produce) {
        std::vector<float> frames;
        {
            const binding::GilReleased released;
            const std::lock_guard<std::mutex> lock(mutex_);
            produce(frames);
        }
        const auto n_mels = static_cast<py::ssize_t>(mel_.n_mels());
        return Floats({static_cast<py::ssize_t>(frames.size()) / n_mels, n_mels}, frames.data());
    }

    const audio::Mel mel_;
    audio::MelStream stream_;
    std::mutex mutex_;
};

}  // namespace

void bind_audio(py::module_& m) {
    m.def(
        "log_mel_spectrogram", &log_mel_spectrogram, py::arg("pcm"), py::arg("filters"), py::kw_only(),
        py::arg("padding") = 0, py::arg("n_threads") = 0, py::arg("isa") = "auto",
        "openai/whisper's log-mel spectrogram, float32 [n_mels, n_frames], of 16 kHz float32 PCM and `padding` zeros.");
    py::class_<Stream>(m, "MelStream")
        .def(py::init<const py::array&, int, const std::string&>(), py::arg("filters"), py::kw_only(),
             py::arg("n_threads") = 0, py::arg("isa") = "auto")
        .def("push", &Stream::push, py::arg("pcm"))
        .def("finish", &Stream::finish, py::kw_only(), py::arg("padding") = 0);
    // A process ends without threads of ours, whatever it still holds.
    py::module_::import("atexit").attr("register")(
        py::cpp_function(&rest_shared_pools, py::call_guard<binding::GilReleased>()));
}

}  // namespace whisperq::python
