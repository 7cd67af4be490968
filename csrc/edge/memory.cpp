#include "edge/memory.h"

#include <algorithm>

#include "core/status.h"
#include "edge/decoder.h"
#include "edge/encoder.h"
#include "edge/weights.h"

namespace whisperq::edge {

model::ModelFile describe_model(const model::Hparams& hparams, const std::string& matrix_type) {
    const model::TensorType* type = model::find_tensor_type(matrix_type);
    if (type == nullptr) throw Error(Status::internal, "there is no type " + matrix_type);
    model::ModelFile file;
    file.path = "a " + matrix_type + " model";
    file.hparams = hparams;
    file.matrix_type = type;
    for (const model::TensorSpec& spec : model::whisper_tensors(hparams, type)) {
        uint64_t n_rows = 1;
        for (size_t i = 1; i < spec.dims.size(); ++i) n_rows *= static_cast<uint64_t>(spec.dims[i]);
        const auto n_bytes = model::tensor_bytes(*spec.type, static_cast<uint64_t>(spec.dims[0]), n_rows);
        if (!n_bytes) throw Error(Status::internal, "rows of " + spec.name + " are no blocks of " + matrix_type);
        file.tensors.push_back({spec.name, spec.type, spec.dims, 0, *n_bytes});
    }
    return file;
}

MemoryNeeds memory_needed(const model::ModelFile& file, const kernels::KernelTable& kernels, const Workload& work) {
    WeightPlan plan(file);
    const EncoderWeights encoder = read_encoder(plan, file.hparams);
    const DecoderWeights decoder = read_decoder(plan, file.hparams);
    const model::Hparams& hparams = file.hparams;
    const int64_t most = hparams.n_audio_ctx;
    const int64_t n_silent = work.with_silence && work.n_ctx < most ? Silence::n_pools_behind(work.n_ctx, most) : 0;
    const int64_t n_heard = work.with_silence ? most : work.n_ctx;
    EncoderNeeds encoding = encoder_needs(encoder, kernels, work.n_ctx, n_silent);
    if (work.with_silence) encoding.include(encoder_needs(encoder, kernels, most));

    const CacheShape cache = audio_cache_shape(decoder, hparams);
    const int64_t n_sequences = work.n_windows * work.n_sequences;
    DecoderNeeds decoding = listen_needs(decoder, kernels, n_heard);
    decoding.include(step_needs(decoder, kernels, hparams, work.n_windows * work.n_prompt_tokens,
                                work.n_windows * work.n_prompt_logits));
    decoding.include(step_needs(decoder, kernels, hparams, n_sequences, n_sequences));

    MachineNeeds machine = encoding.machine;
    machine.include(decoding.machine);

    MemoryNeeds needs;
    needs.weights = plan.n_bytes();
    needs.audio_caches = static_cast<size_t>(work.n_windows) * cache.n_bytes(n_heard);
    needs.self_caches = static_cast<size_t>(n_sequences) * self_cache_shape(decoder, hparams).n_bytes(work.n_tokens);
    needs.encoder = encoding.work_bytes;
    needs.decoder = decoding.n_bytes();
    needs.machine = machine.n_bytes(work.n_threads);
    if (work.with_silence) {
        needs.silence = Silence::n_bytes(hparams, cache);
        needs.learning = static_cast<size_t>(most * hparams.n_audio_state) * sizeof(float);
    }
    return needs;
}

}  // namespace whisperq::edge
