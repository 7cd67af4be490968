// Our own decoder as the language model of a batch of windows.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "decoding/language_model.h"
#include "edge/decoder.h"

namespace whisperq::decoding {

class EdgeLanguageModel final : public LanguageModel {
  public:
    using Audio = std::shared_ptr<const edge::AudioCache>;

    // The decoder must live longer.
    EdgeLanguageModel(edge::TextDecoder& decoder, std::vector<Audio> audios, const RowMath& row_math);

    int64_t n_vocab() const override { return decoder_.n_vocab(); }
    int64_t n_text_ctx() const override { return decoder_.n_text_ctx(); }
    size_t n_windows() const override { return audios_.size(); }
    int64_t n_audio_ctx(size_t window) const override { return audios_[window]->n_ctx(); }
    const RowMath& row_math() const override { return row_math_; }

    std::unique_ptr<Sequence> begin(size_t window) override;
    void copy(const Sequence& from, Sequence& to) override;
    bool decode(const std::vector<Pass>& passes, float* logits, const std::function<bool()>& should_stop) override;
    void run(int64_t n_tasks, const Task& task) override { decoder_.pool().run(n_tasks, task); }

  private:
    edge::TextDecoder& decoder_;
    const std::vector<Audio> audios_;
    const RowMath& row_math_;
};

}  // namespace whisperq::decoding
