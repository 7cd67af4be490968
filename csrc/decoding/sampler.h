// The search for a window's answer, one step at a time. These are openai/whisper's GreedyDecoder, BeamSearchDecoder and
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

// A distribution over a filtered row: its log-softmax, as far as it is asked for. It takes two passes over the row at
// most, and does not sort it.
class Distribution {
  public:
    // Throws Error(Status::inference) where a logit is no number or no token is left.
    Distribution(const FilteredRow& row, const RowMath& math);

    // Return float(float(logit - largest) - log(sum)), as torch has it, and -inf for tokens outside the row.
    float log_probability(int64_t token) const;
    // Return the first of the likeliest tokens.
    int32_t likeliest() const;
    // Return the n likeliest, likeliest first, and the first of equal ones. Tokens without a chance fill the list up.
    std::vector<int32_t> likeliest(int n) const;
    // Return the first token at which the sum of probabilities^(1 / temperature) exceeds the share `u`, in [0, 1), of
    // the whole sum.
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

// A candidate for the answer.
struct Candidate {
    std::vector<int32_t> tokens;  // without the prompt and without eot
    float sum_logprob;            // eot's included, where it was sampled
};

struct LiveSequence {
    std::vector<int32_t> tokens;  // behind the prompt, so far
    float sum_logprob = 0;
    int source = 0;  // which of the sequences before the last step it continues
    int stream = 0;  // the stream of its random numbers
};

class Search {
  public:
    virtual ~Search() = default;

    // Return the sequences that go on. In the beginning there is an empty one, which stands for all n_group() of them.
    const std::vector<LiveSequence>& live() const noexcept { return live_; }

    // Take the logits after each of live(), in that order. Throws as Distribution does.
    virtual void update(const std::vector<FilteredRow>& rows) = 0;
    virtual bool is_done() const = 0;
    // Return the candidates, at least one, of a search that is done or must end here.
    virtual std::vector<Candidate> finish() = 0;

  protected:
    std::vector<LiveSequence> live_{LiveSequence{}};
};

// Return a search. `stream` names the window among all that are decoded with this seed. The options must have passed
// check(), and live as long as the search.
std::unique_ptr<Search> begin_search(const DecodeOptions& options, uint64_t stream, const RowMath& math);

// Return the index of the likeliest candidate, and of equal ones the first. They are ranked by the mean over their
// tokens, or with Google NMT's length penalty. An empty candidate counts as one token long; openai/whisper divides by
// zero there.
size_t rank(const std::vector<Candidate>& candidates, std::optional<double> length_penalty);

}  // namespace whisperq::decoding
