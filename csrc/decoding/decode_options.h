// Options that a window is decoded with. Token ids come from the model's vocabulary, which nothing in here knows.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace whisperq::decoding {

struct DecodeOptions {
    // ids of tokens; -1: the vocabulary has no such token
    int32_t eot = -1;
    int32_t no_speech = -1;
    int32_t no_timestamps = -1;
    int32_t timestamp_begin = -1;          // every id from here on is a time
    std::vector<int32_t> blank;            // must not be sampled first: " " and eot
    std::vector<int32_t> suppress_tokens;  // never sampled

    float temperature = 0;                 // 0: the likeliest token; above: sampling. Beam search ignores it
    int beam_size = 0;                     // 0: no beam search
    int best_of = 1;                       // samples of a window at temperatures above 0
    std::optional<double> patience;        // for beam search, arXiv:2204.05424; none: 1
    std::optional<double> length_penalty;  // alpha of Google's NMT, 0 to 1; none: the mean over the tokens ranks
    int64_t sample_len = 0;                // most tokens to sample; 0: half of the model's text context

    bool suppress_blank = true;
    bool without_timestamps = false;
    std::optional<int32_t> max_initial_timestamp_index;  // limit of the first time, in audio tokens; none: any

    float repetition_penalty = 1;  // above 1: tokens of this window are less likely to come again
    int no_repeat_ngram_size = 0;  // n > 0: no n tokens in a row twice in a window

    uint64_t seed = 0;

    // Return how many sequences of a window live side by side.
    int n_group() const noexcept { return beam_size > 0 ? beam_size : best_of; }
};

// Throws Error(Status::argument), which names the field, for options that no model of n_vocab tokens can be decoded
// with.
void check(const DecodeOptions& options, int64_t n_vocab);

}  // namespace whisperq::decoding
