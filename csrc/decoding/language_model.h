// The face of a model that decoding asks: which tokens may follow, given a window's audio and the tokens so far. The
// model is edge::TextDecoder (edge_language_model.h), or a script in a test.
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
    // A sequence of tokens that were decoded over the audio of one window.
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
        const Heads* heads = nullptr;  // cross-attention heads whose scores before softmax are wanted
        float* scores = nullptr;       // [heads][n_tokens][n_audio_ctx(window)]
    };

    virtual ~LanguageModel() = default;
    virtual int64_t n_vocab() const = 0;
    virtual int64_t n_text_ctx() const = 0;
    virtual size_t n_windows() const = 0;
    virtual int64_t n_audio_ctx(size_t window) const = 0;
    virtual const RowMath& row_math() const = 0;  // for the rows of its logits

    virtual std::unique_ptr<Sequence> begin(size_t window) = 0;
    // Make `to`, of the same window, equal to `from`.
    virtual void copy(const Sequence& from, Sequence& to) = 0;
    // Compute one step of all passes, each of another sequence. Passes of a window are best side by side. `logits` are
    // [rows that are wanted of the first pass, of the second...][n_vocab]. should_stop() is asked while another thread
    // computes with the model. When it said so, return false; nothing is decoded then.
    virtual bool decode(const std::vector<Pass>& passes, float* logits, const std::function<bool()>& should_stop) = 0;
    // Call task(i, worker) for each i in [0, n_tasks), side by side where it can. Tasks work on the logits of different
    // windows. A task may call begin() and copy() of its window.
    virtual void run(int64_t n_tasks, const Task& task) = 0;
};

}  // namespace whisperq::decoding
