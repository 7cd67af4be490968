// The memory of a model and its work, computed before anything is allocated. Nothing is estimated: the sums come from
// the functions by which encoder, decoder and caches reserve memory. csrc/decoding reserves logits and the scores of
// word times, and computes their size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/kernels.h"
#include "model/file_format.h"

namespace whisperq::edge {

// The work that a model is to do.
struct Workload {
    int n_threads = 1;
    int64_t n_ctx = 0;            // audio tokens of a window
    bool with_silence = false;    // windows may be short: silence (silence.h) is learned, and follows these tokens
    int64_t n_windows = 1;        // decoded together
    int64_t n_sequences = 1;      // of each window: beams or samples
    int64_t n_prompt_tokens = 1;  // that each window begins with
    int64_t n_prompt_logits = 1;  // of these, those whose logits are wanted
    int64_t n_tokens = 1;         // of each sequence in the end, prompt included
};

struct MemoryNeeds {
    size_t weights = 0;
    size_t audio_caches = 0;  // keys and values of the windows' audio
    size_t self_caches = 0;   // of the sequences' tokens, when none of them share any
    size_t encoder = 0;       // work memory
    size_t decoder = 0;       // work memory
    size_t machine = 0;       // what products and attention use, of all threads
    size_t silence = 0;       // what is kept of silence, for short audio
    size_t learning = 0;      // features of a silent window, which are gone once silence is known
};

// Return a model file that is nowhere: Whisper's tensors, without data.
//
// Throws Error(Status::internal) for an unknown type, and for one whose blocks do not fill the rows.
model::ModelFile describe_model(const model::Hparams& hparams, const std::string& matrix_type);

// Return the memory of a model and its work.
//
// Throws Error(Status::unsupported_model) for a type that this engine has no kernels for.
MemoryNeeds memory_needed(const model::ModelFile& file, const kernels::KernelTable& kernels, const Workload& work);

}  // namespace whisperq::edge
