#include "decoding/logit_filters.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace whisperq::decoding {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Penalise repetition as CTranslate2's RepetitionPenalty does, from the CTRL paper (arXiv:1909.05858).
void penalise_repetition(const std::vector<int32_t>& sampled, float penalty, float* logits) {
    for (const int32_t id : std::set<int32_t>(sampled.begin(), sampled.end())) {
        logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
    }
}

// Forbid repeated n-grams as CTranslate2's NoRepeatNgram does. Where the last n - 1 tokens stood before, the token
// behind them would complete a repetition.
void forbid_repeated_ngrams(const std::vector<int32_t>& sampled, size_t n, float* logits) {
    if (sampled.size() < n) return;
    const auto tail = sampled.end() - static_cast<std::ptrdiff_t>(n - 1);
    for (size_t i = 0; i + n <= sampled.size(); ++i) {
        const auto before = sampled.begin() + static_cast<std::ptrdiff_t>(i);
        if (std::equal(tail, sampled.end(), before)) logits[sampled[i + n - 1]] = kNever;
    }
}

}  // namespace

LogitFilters::LogitFilters(const DecodeOptions& options, int64_t n_vocab, const RowMath& math)
    : options_(options), n_vocab_(n_vocab), math_(math) {}

FilteredRow LogitFilters::apply(const std::vector<int32_t>& sampled, float* logits) const {
    penalise(sampled, logits);
    suppress(sampled.empty(), logits);
    if (options_.without_timestamps) return {logits, 0, n_vocab_};
    FilteredRow row = keep_times_in_order(sampled, logits);
    if (a_time_is_likelier(row)) row.begin = options_.timestamp_begin;
    return row;
}

void LogitFilters::penalise(const std::vector<int32_t>& sampled, float* logits) const {
    if (options_.repetition_penalty != 1) penalise_repetition(sampled, options_.repetition_penalty, logits);
    if (options_.no_repeat_ngram_size > 0) {
        forbid_repeated_ngrams(sampled, static_cast<size_t>(options_.no_repeat_ngram_size), logits);
    }
}

void LogitFilters::suppress(bool is_first, float* logits) const {
    if (is_first && options_.suppress_blank) {
        for (const int32_t id : options_.blank) logits[id] = kNever;
    }
    for (const int32_t id : options_.suppress_tokens) logits[id] = kNever;
}

FilteredRow LogitFilters::keep_times_in_order(const std::vector<int32_t>& sampled, float* logits) const {
    const int32_t first_time = options_.timestamp_begin;
    const auto is_time = [first_time](int32_t id) { return id >= first_time; };
    const size_t n = sampled.size();
    FilteredRow row{logits, 0, n_vocab_};

    // <|notimestamps|> is for the prompt.
    if (options_.no_timestamps >= 0) logits[options_.no_timestamps] = kNever;

    // Times come in pairs: the end of a segment and the start of the next. Only the last one, before the end of the
    // text, has no partner.
    const bool last_is_time = n >= 1 && is_time(sampled[n - 1]);
    const bool pair_is_whole = n < 2 || is_time(sampled[n - 2]);
    if (last_is_time && pair_is_whole) row.end = first_time;
    if (last_is_time && !pair_is_whole) row.begin = options_.eot;

    // Times do not go back. They have to rise within a segment, so that no segment is empty and no loop endless. A
    // segment may start where the one before ended.
    const auto last_time = std::find_if(sampled.rbegin(), sampled.rend(), is_time);
    if (last_time != sampled.rend()) {
        const bool may_stay = last_is_time && !pair_is_whole;
        std::fill(logits + first_time, logits + std::min<int64_t>(*last_time + (may_stay ? 0 : 1), n_vocab_), kNever);
    }

    if (n == 0) {  // a window begins with a time, and an early one
        row.begin = first_time;
        if (options_.max_initial_timestamp_index) {
            row.end = std::min<int64_t>(n_vocab_, int64_t{first_time} + *options_.max_initial_timestamp_index + 1);
        }
    }
    return row;
}

// Return whether all times together are likelier than the likeliest other token. The sum of all probabilities is not
// needed for that, because openai's log_softmax divides both by it.
bool LogitFilters::a_time_is_likelier(const FilteredRow& row) const {
    const int64_t first_time = options_.timestamp_begin;
    if (row.end <= first_time || row.begin >= first_time) return false;
    const float* times = row.logits + first_time;
    const int64_t n_times = row.end - first_time;
    const float likeliest_time = math_.max_of(times, n_times);
    if (!(likeliest_time > kNever)) return false;  // all are suppressed; or NaN, which the sampler finds
    const float likeliest_other = math_.max_of(row.logits + row.begin, first_time - row.begin);
    const double sum = math_.sum_exp(times, n_times, likeliest_time, 1);
    return double{likeliest_time} + std::log(sum) > double{likeliest_other};
}

}  // namespace whisperq::decoding
