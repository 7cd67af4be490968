#include "edge/model.h"

#include <utility>

namespace whisperq::edge {

Model::Model(const std::filesystem::path& path, const kernels::KernelTable& kernels, int n_threads)
    : kernels_(kernels), pool_(n_threads), machine_(kernels, pool_) {
    const model::ModelFile file = model::read_model_file(path);
    hparams_ = file.hparams;
    WeightReader reader(file, kernels, pool_, arena_);
    encoder_ = read_encoder(reader, hparams_);
    decoder_ = read_decoder(reader, hparams_);
    weight_bytes_ = reader.n_bytes();
}

void Model::round_activations(ActivationRounding rounding) {
    const Turn::Taken taken = turn_.take();
    study_.start(linears(), std::move(rounding));
    machine_.set_study(study_.is_on() ? &study_ : nullptr);
}

std::map<std::string, float> Model::activation_ranges() {
    const Turn::Taken taken = turn_.take();
    return study_.observed();
}

}  // namespace whisperq::edge
