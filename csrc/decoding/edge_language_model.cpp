#include "decoding/edge_language_model.h"

#include <utility>

namespace whisperq::decoding {
namespace {

struct EdgeSequence final : LanguageModel::Sequence {
    explicit EdgeSequence(std::unique_ptr<edge::Sequence> sequence) : sequence(std::move(sequence)) {}
    std::unique_ptr<edge::Sequence> sequence;
};

}  // namespace

EdgeLanguageModel::EdgeLanguageModel(edge::TextDecoder& decoder, std::vector<Audio> audios, const RowMath& row_math)
    : decoder_(decoder), audios_(std::move(audios)), row_math_(row_math) {}

std::unique_ptr<LanguageModel::Sequence> EdgeLanguageModel::begin(size_t window) {
    return std::make_unique<EdgeSequence>(decoder_.begin(audios_[window]));
}

void EdgeLanguageModel::copy(const Sequence& from, Sequence& to) {
    decoder_.copy(*static_cast<const EdgeSequence&>(from).sequence, *static_cast<EdgeSequence&>(to).sequence);
}

bool EdgeLanguageModel::decode(const std::vector<Pass>& passes, float* logits,
                               const std::function<bool()>& should_stop) {
    std::vector<edge::Pass> edge_passes;
    edge_passes.reserve(passes.size());
    for (const Pass& pass : passes) {
        edge_passes.push_back({static_cast<EdgeSequence*>(pass.sequence)->sequence.get(),
                               pass.tokens,
                               pass.n_tokens,
                               pass.first_logits,
                               {pass.heads, pass.scores}});
    }
    return decoder_.decode(edge_passes, logits, should_stop);
}

}  // namespace whisperq::decoding
