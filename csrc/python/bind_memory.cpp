// `_core.edge_memory`: what the edge engine would allocate, before it does.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <string>

#include "core/status.h"
#include "decoding/align.h"
#include "decoding/decode_windows.h"
#include "dispatch/isas.h"
#include "edge/memory.h"
#include "edge/silence.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace whisperq::python {
namespace {

model::Hparams checked_hparams(const std::map<std::string, int32_t>& given) {
    const auto of = [&](const char* name) {
        const auto found = given.find(name);
        if (found == given.end() || found->second < 1) {
            throw Error(Status::argument, std::string("hparams need ") + name + " from 1 on");
        }
        return found->second;
    };
    model::Hparams hparams;
    hparams.n_mels = of("n_mels");
    hparams.n_audio_ctx = of("n_audio_ctx");
    hparams.n_audio_state = of("n_audio_state");
    hparams.n_audio_head = of("n_audio_head");
    hparams.n_audio_layer = of("n_audio_layer");
    hparams.n_text_ctx = of("n_text_ctx");
    hparams.n_text_state = of("n_text_state");
    hparams.n_text_head = of("n_text_head");
    hparams.n_text_layer = of("n_text_layer");
    hparams.n_vocab = of("n_vocab");
    return hparams;
}

model::ModelFile describe_model(const std::map<std::string, int32_t>& hparams, const std::string& type) {
    return edge::describe_model(checked_hparams(hparams), type);
}

// Work memory of the passes that the word times need.
void include_pass(const model::ModelFile& file, const kernels::KernelTable& kernels, edge::Workload work,
                  const decoding::AlignNeeds& aligning, edge::MemoryNeeds& needs) {
    work.n_windows = aligning.n_together;
    work.n_sequences = 1;
    work.n_prompt_tokens = work.n_prompt_logits = aligning.n_pass_tokens;
    const edge::MemoryNeeds passes = edge::memory_needed(file, kernels, work);
    needs.decoder = std::max(needs.decoder, passes.decoder);
    needs.machine = std::max(needs.machine, passes.machine);
}

py::dict edge_memory(const model::ModelFile& file, const std::string& isa, int n_threads, int64_t n_ctx,
                     bool with_silence, int64_t n_windows, int64_t n_sequences, int64_t n_prompt_tokens,
                     int64_t n_prompt_logits, int64_t n_tokens, int64_t n_align_windows, int64_t n_align_tokens,
                     int64_t n_align_heads) {
    if (std::min({int64_t{n_threads}, n_ctx, n_windows, n_sequences, n_prompt_tokens, n_prompt_logits, n_tokens}) < 1) {
        throw Error(Status::argument, "all numbers have to be from 1 on");
    }
    const kernels::KernelTable& kernels = dispatch::isa_for(isa).kernels;
    const bool is_whole = n_ctx == file.hparams.n_audio_ctx;
    if (with_silence && !is_whole && (n_ctx % edge::Silence::kPool != 0 || n_ctx > file.hparams.n_audio_ctx)) {
        throw Error(Status::argument, "with silence, a window has a multiple of " +
                                          std::to_string(edge::Silence::kPool) + " audio tokens, or all");
    }
    const edge::Workload work{n_threads,   n_ctx,           with_silence,    n_windows,
                              n_sequences, n_prompt_tokens, n_prompt_logits, n_tokens};
    edge::MemoryNeeds needs = edge::memory_needed(file, kernels, work);
    size_t alignment = 0;
    if (n_align_windows > 0 && n_align_tokens > 0 && n_align_heads > 0) {
        const int64_t n_heard = with_silence ? file.hparams.n_audio_ctx : n_ctx;
        const decoding::AlignNeeds aligning =
            decoding::align_needs(n_align_windows, n_align_tokens, n_align_heads, n_heard, file.hparams.n_vocab);
        alignment = aligning.n_bytes;
        include_pass(file, kernels, work, aligning, needs);
    }
    py::dict dict;
    dict["weights"] = needs.weights;
    dict["audio_caches"] = needs.audio_caches;
    dict["self_caches"] = needs.self_caches;
    dict["encoder"] = needs.encoder;
    dict["decoder"] = needs.decoder;
    dict["machine"] = needs.machine;
    dict["silence"] = needs.silence;
    dict["learning"] = needs.learning;
    dict["alignment"] = alignment;
    dict["logits"] =
        decoding::logit_bytes(n_windows * std::max(n_sequences, n_prompt_logits), int64_t{file.hparams.n_vocab});
    return dict;
}

}  // namespace

void bind_memory(py::module_& m) {
    m.def("describe_model", &describe_model, py::arg("hparams"), py::arg("type"),
          "What read_model_file() would give for a model of these dimensions, but vocabulary and mel filters.");
    m.def("edge_memory", &edge_memory, py::arg("file"), py::kw_only(), py::arg("isa") = "auto", py::arg("n_threads"),
          py::arg("n_ctx"), py::arg("with_silence") = false, py::arg("n_windows") = 1, py::arg("n_sequences") = 1,
          py::arg("n_prompt_tokens") = 1, py::arg("n_prompt_logits") = 1, py::arg("n_tokens") = 1,
          py::arg("n_align_windows") = 1, py::arg("n_align_tokens") = 0, py::arg("n_align_heads") = 0,
          "Bytes by what they are for; nothing is allocated.");
}

}  // namespace whisperq::python
