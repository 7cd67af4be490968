// Filters of logits say which tokens may come next. They are openai/whisper's rules (whisper/decoding.py:
// SuppressBlank, SuppressTokens, ApplyTimestampRules), and the two penalties that faster-whisper has from CTranslate2.
#pragma once

#include <cstdint>
#include <vector>

#include "decoding/decode_options.h"
#include "decoding/row_math.h"

namespace whisperq::decoding {

// A row of logits after the filters. Outside [begin, end) no token may be sampled, whatever stands there.
struct FilteredRow {
    const float* logits;
    int64_t begin, end;
};

class LogitFilters {
  public:
    // The options must have passed check(), and live as long.
    LogitFilters(const DecodeOptions& options, int64_t n_vocab, const RowMath& math);

    // Filter n_vocab `logits` in place. `sampled` are the tokens behind the prompt so far. Thread-safe.
    FilteredRow apply(const std::vector<int32_t>& sampled, float* logits) const;

  private:
    void penalise(const std::vector<int32_t>& sampled, float* logits) const;
    void suppress(bool is_first, float* logits) const;
    FilteredRow keep_times_in_order(const std::vector<int32_t>& sampled, float* logits) const;
    bool a_time_is_likelier(const FilteredRow& row) const;

    const DecodeOptions& options_;
    const int64_t n_vocab_;
    const RowMath& math_;
};

}  // namespace whisperq::decoding
