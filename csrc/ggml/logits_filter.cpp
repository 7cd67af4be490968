#include "ggml/logits_filter.h"

#include <cmath>
#include <set>

namespace whisperq::ggml {
namespace {

void penalise_repetition(const whisper_token_data* tokens, int n_tokens, float penalty, float* logits) {
    std::set<whisper_token> seen;
    for (int i = 0; i < n_tokens; ++i) seen.insert(tokens[i].id);
    for (const whisper_token id : seen) logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
}

bool same_ngram(const whisper_token_data* a, const whisper_token_data* b, int n) {
    for (int i = 0; i < n; ++i) {
        if (a[i].id != b[i].id) return false;
    }
    return true;
}

// Where the last n-1 tokens stood before, the token that followed them there would complete a repeated n-gram.
void forbid_repeated_ngrams(const whisper_token_data* tokens, int n_tokens, int n, float* logits) {
    const whisper_token_data* tail = tokens + n_tokens - (n - 1);
    for (int i = 0; i + n <= n_tokens; ++i) {
        if (same_ngram(tokens + i, tail, n - 1)) logits[tokens[i + n - 1].id] = -INFINITY;
    }
}

}  // namespace

void LogitsFilter::apply(const whisper_token_data* tokens, int n_tokens, float* logits) const {
    if (repetition_penalty != 1) penalise_repetition(tokens, n_tokens, repetition_penalty, logits);
    if (no_repeat_ngram_size > 0 && n_tokens >= no_repeat_ngram_size) {
        forbid_repeated_ngrams(tokens, n_tokens, no_repeat_ngram_size, logits);
    }
    for (const whisper_token id : suppress) logits[id] = -INFINITY;
}

}  // namespace whisperq::ggml
