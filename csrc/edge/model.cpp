#include "edge/model.h"

namespace whisperq::edge {
namespace {

uint64_t bytes_of(std::initializer_list<const Linear*> linears) {
    uint64_t total = 0;
    for (const Linear* linear : linears) total += linear->packed.size();
    return total;
}

uint64_t bytes_of(const AttentionWeights& attention) {
    return bytes_of({&attention.query, &attention.key, &attention.value, &attention.out});
}

}  // namespace

Model::Model(const std::filesystem::path& path, const kernels::KernelTable& kernels, int n_threads)
    : kernels_(kernels), pool_(n_threads), machine_(kernels, pool_) {
    const model::ModelFile file = model::read_model_file(path);
    hparams_ = file.hparams;
    WeightReader reader(file, kernels, pool_);
    encoder_ = read_encoder(reader, hparams_);
    decoder_ = read_decoder(reader, hparams_);
}

uint64_t Model::packed_bytes() const noexcept {
    uint64_t total = bytes_of({&encoder_.conv1, &encoder_.conv2, &decoder_.token_embedding});
    for (const EncoderLayer& layer : encoder_.layers) {
        total += bytes_of(layer.attention) + bytes_of({&layer.mlp.up, &layer.mlp.down});
    }
    for (const DecoderLayer& layer : decoder_.layers) {
        total +=
            bytes_of(layer.attention) + bytes_of(layer.cross_attention) + bytes_of({&layer.mlp.up, &layer.mlp.down});
    }
    return total;
}

}  // namespace whisperq::edge
