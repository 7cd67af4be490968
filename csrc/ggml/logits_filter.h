// The logit filters that users ask for by faster-whisper's names and that whisper.cpp does not have.
#pragma once

#include <vector>

#include "whisper.h"

namespace whisperq::ggml {

struct LogitsFilter {
    float repetition_penalty = 1;         // > 1 makes tokens of this window less likely to come again (CTRL paper)
    int no_repeat_ngram_size = 0;         // n > 0: no n-gram of tokens twice in a window
    std::vector<whisper_token> suppress;  // never sampled

    bool is_needed() const { return repetition_penalty != 1 || no_repeat_ngram_size > 0 || !suppress.empty(); }

    // `tokens`: what was sampled in this window so far; `logits`: n_vocab values, changed in place. Thread-safe.
    void apply(const whisper_token_data* tokens, int n_tokens, float* logits) const;
};

}  // namespace whisperq::ggml
