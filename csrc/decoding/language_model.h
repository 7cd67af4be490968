// What decoding asks of a model: which tokens may follow, given the audio of a window and the tokens so far. The model
// is edge::TextDecoder (edge_language_model.h), or a script in a test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/thread_pool.h"
#include "decoding/row_math.h"

namespace whisperq::decoding {

class LanguageModel {
  public:
    // Tokens that were decoded over the audio of one window.
    class Sequence {
      public:
        virtual ~Sequence() = default;
    };

    using Heads = std::vector<std::pair<int, int>>;  // (layer, head)

    struct Pass {
        Sequence* sequence = nullptr;
        const int32_t* tokens = nullptr;  // appended to the sequence
        int64_t n_tokens = 0;
        int64_t first_logits = 0;      // the logits of tokens [first_logits, n_tokens) are wanted
        const Heads* heads = nullptr;  // of the cross attention, whose scores before softmax are wanted
        float* scores = nullptr;       // [heads][n_tokens][n_audio_ctx(window)]
    };

    virtual ~LanguageModel() = default;
    virtual int64_t n_vocab() const = 0;
    virtual int64_t n_text_ctx() const = 0;
    virtual size_t n_windows() const = 0;
    virtual int64_t n_audio_ctx(size_t window) const = 0;
    virtual const RowMath& row_math() const = 0;  // for the rows of its logits

    virtual std::unique_ptr<Sequence> begin(size_t window) = 0;
    // `to`, of the same window, becomes what `from` is.
    virtual void copy(const Sequence& from, Sequence& to) = 0;
    // One step of all passes, each of another sequence; those of a window are best side by side. `logits`: [rows that
    // are wanted of the first pass, of the second...][n_vocab]. False, and nothing is decoded, when should_stop() said
    // so, which is asked while another thread computes with the model.
    virtual bool decode(const std::vector<Pass>& passes, float* logits, const std::function<bool()>& should_stop) = 0;
    // Calls task(i, worker) for each i in [0, n_tasks), side by side where it can, for what is done with the logits of
    // different windows. The task may call begin() and copy() of its window.
    virtual void run(int64_t n_tasks, const Task& task) = 0;
};

}  // namespace whisperq::decoding
