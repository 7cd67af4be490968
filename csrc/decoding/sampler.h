// The search for a window's answer, one step at a time: openai/whisper's GreedyDecoder, BeamSearchDecoder and
// MaximumLikelihoodRanker (whisper/decoding.py), with random numbers of our own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "decoding/decode_options.h"
#include "decoding/logit_filters.h"
#include "decoding/row_math.h"

namespace whisperq::decoding {

// Log-softmax of a filtered row, as far as it is asked for: two passes over the row at most, and no sorting of it.
class Distribution {
  public:
    // Throws Error(Status::inference) where a logit is no number or no token is left.
    Distribution(const FilteredRow& row, const RowMath& math);

    // float(float(logit - largest) - log(sum)), as torch has it; of tokens outside of the row -inf.
    float log_probability(int64_t token) const;
    // The first of the likeliest.
    int32_t likeliest() const;
    // The n likeliest, likeliest first; of equal ones the first. Tokens without a chance fill up.
    std::vector<int32_t> likeliest(int n) const;
    // The first token at which the sum of the probabilities^(1 / temperature) exceeds `u`, in [0, 1), of all of it.
    int32_t sample(double u, float temperature) const;

  private:
    bool is_in(int64_t token) const noexcept { return token >= row_.begin && token < row_.end; }
    int64_t block_begin(size_t block) const noexcept;
    int64_t block_end(size_t block) const noexcept;

    FilteredRow row_;
    const RowMath& math_;
    std::vector<float> block_largest_;
    float largest_, log_sum_;
};

// What may become the answer.
struct Candidate {
    std::vector<int32_t> tokens;  // without the prompt and without eot
    float sum_logprob;            // eot's included, where it was sampled
};

struct LiveSequence {
    std::vector<int32_t> tokens;  // behind the prompt, so far
    float sum_logprob = 0;
    int source = 0;  // which of the sequences before the last step it continues
    int stream = 0;  // of random numbers
};

class Search {
  public:
    virtual ~Search() = default;

    // Which sequences go on. In the beginning one, empty, which stands for all n_group() of them.
    const std::vector<LiveSequence>& live() const noexcept { return live_; }

    // Takes what comes after each of live(), in that order. Throws as Distribution does.
    virtual void update(const std::vector<FilteredRow>& rows) = 0;
    virtual bool is_done() const = 0;
    // Of a search that is done, or that must end here. At least one.
    virtual std::vector<Candidate> finish() = 0;

  protected:
    std::vector<LiveSequence> live_{LiveSequence{}};
};

// `stream` names the window among all that are decoded with this seed. The options must have passed check(), and live
// as long as the search.
std::unique_ptr<Search> begin_search(const DecodeOptions& options, uint64_t stream, const RowMath& math);

// Index of the likeliest, by the mean over its tokens or with Google NMT's length penalty; of equal ones the first. An
// empty candidate, on which openai/whisper fails with a division by zero, counts as one token long.
size_t rank(const std::vector<Candidate>& candidates, std::optional<double> length_penalty);

}  // namespace whisperq::decoding
