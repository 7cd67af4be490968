#include "decoding/decode_options.h"

#include <cmath>
#include <string>

#include "core/status.h"

namespace whisperq::decoding {
namespace {

constexpr int kMostSequences = 1024;  // of a window

template <class T>
void require(bool holds, const char* field, const T& value, const std::string& allowed) {
    if (!holds) {
        throw Error(Status::argument,
                    std::string(field) + " is " + std::to_string(value) + "; it has to be " + allowed);
    }
}

void check_tokens(const DecodeOptions& options, int64_t n_vocab) {
    const std::string ids = "from 0 to " + std::to_string(n_vocab - 1);
    const auto in_vocabulary = [&](int32_t id) { return id >= 0 && id < n_vocab; };
    const auto none_or_in_vocabulary = [&](int32_t id) { return id >= -1 && id < n_vocab; };
    require(in_vocabulary(options.eot), "eot", options.eot, ids);
    require(none_or_in_vocabulary(options.no_speech), "no_speech", options.no_speech, ids + ", or -1 for none");
    require(none_or_in_vocabulary(options.no_timestamps), "no_timestamps", options.no_timestamps,
            ids + ", or -1 for none");
    require(
        options.without_timestamps || (in_vocabulary(options.timestamp_begin) && options.timestamp_begin > options.eot),
        "timestamp_begin", options.timestamp_begin, ids + " and above eot, or without_timestamps has to be set");
    for (const int32_t id : options.blank) require(in_vocabulary(id), "a token of blank", id, ids);
    for (const int32_t id : options.suppress_tokens) require(in_vocabulary(id), "a token of suppress_tokens", id, ids);
}

}  // namespace

void check(const DecodeOptions& options, int64_t n_vocab) {
    check_tokens(options, n_vocab);
    require(options.temperature >= 0 && std::isfinite(options.temperature), "temperature", options.temperature,
            "a number from 0");
    require(options.beam_size >= 0 && options.beam_size <= kMostSequences && options.beam_size < n_vocab, "beam_size",
            options.beam_size, "from 0 to " + std::to_string(kMostSequences) + " and below the number of tokens");
    require(options.best_of >= 1 && options.best_of <= kMostSequences, "best_of", options.best_of,
            "from 1 to " + std::to_string(kMostSequences));
    require(options.best_of == 1 || options.beam_size == 0, "best_of", options.best_of, "1 with a beam_size");
    require(options.best_of == 1 || options.temperature > 0, "best_of", options.best_of, "1 at temperature 0");
    if (options.patience) {
        require(options.beam_size > 0, "patience", *options.patience, "left out without a beam_size");
        const double n_candidates = std::nearbyint(options.beam_size * *options.patience);
        require(*options.patience == 0 || (n_candidates >= 1 && n_candidates <= kMostSequences), "patience",
                *options.patience, "such that beam_size * patience is from 1 to " + std::to_string(kMostSequences));
    }
    if (options.length_penalty) {
        require(*options.length_penalty >= 0 && *options.length_penalty <= 1, "length_penalty", *options.length_penalty,
                "from 0 to 1");
    }
    require(options.sample_len >= 0, "sample_len", options.sample_len, "0 for half of the text context, or more");
    require(options.max_initial_timestamp_index.value_or(0) >= 0, "max_initial_timestamp_index",
            options.max_initial_timestamp_index.value_or(0), "0 or more, or none");
    require(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty), "repetition_penalty",
            options.repetition_penalty, "a number above 0");
    require(options.no_repeat_ngram_size >= 0, "no_repeat_ngram_size", options.no_repeat_ngram_size, "0 or more");
}

}  // namespace whisperq::decoding
