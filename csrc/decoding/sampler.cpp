#include "decoding/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "core/status.h"
#include "decoding/philox.h"

namespace whisperq::decoding {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 256;  // logits in a block, of which often only the largest is looked at

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Return the number of this seed, window, temperature, sequence and step. Every number is used once. The temperature
// counts, so that a fallback does not go the same way again.
double uniform_for(const DecodeOptions& options, uint64_t window, int stream, uint32_t step) {
    const PhiloxKey key{static_cast<uint32_t>(options.seed), static_cast<uint32_t>(options.seed >> 32)};
    const uint32_t place = static_cast<uint32_t>(stream) << 16 | step;  // both are far below 2^16
    return philox_uniform(
        {static_cast<uint32_t>(window), static_cast<uint32_t>(window >> 32), bits_of(options.temperature), place}, key);
}

// ---- Greedy, and samples at a temperature ---------------------------------------------------------------------------

class SamplingSearch final : public Search {
  public:
    SamplingSearch(const DecodeOptions& options, uint64_t window, const RowMath& math)
        : options_(options), window_(window), math_(math), candidates_(static_cast<size_t>(options.best_of)) {}

    void update(const std::vector<FilteredRow>& rows) override {
        std::vector<Distribution> distributions;
        for (const FilteredRow& row : rows) distributions.emplace_back(row, math_);
        if (n_steps_ == 0) {
            begin_streams();
        } else {
            for (size_t i = 0; i < live_.size(); ++i) live_[i].source = static_cast<int>(i);
        }

        std::vector<LiveSequence> still_live;
        for (LiveSequence& sequence : live_) {
            const Distribution& distribution = distributions[static_cast<size_t>(sequence.source)];
            const int32_t token = next_token(distribution, sequence.stream);
            sequence.sum_logprob += distribution.log_probability(token);
            if (token == options_.eot) {
                end(std::move(sequence));
            } else {
                sequence.tokens.push_back(token);
                still_live.push_back(std::move(sequence));
            }
        }
        live_ = std::move(still_live);
        ++n_steps_;
    }

    bool is_done() const override { return live_.empty(); }

    std::vector<Candidate> finish() override {
        for (LiveSequence& sequence : live_) end(std::move(sequence));
        live_.clear();
        return std::move(candidates_);
    }

  private:
    void begin_streams() {
        live_.resize(candidates_.size());
        for (size_t i = 0; i < live_.size(); ++i) live_[i].stream = static_cast<int>(i);
    }

    int32_t next_token(const Distribution& distribution, int stream) const {
        if (options_.temperature == 0) return distribution.likeliest();
        return distribution.sample(uniform_for(options_, window_, stream, n_steps_), options_.temperature);
    }

    void end(LiveSequence&& sequence) {
        candidates_[static_cast<size_t>(sequence.stream)] = {std::move(sequence.tokens), sequence.sum_logprob};
    }

    const DecodeOptions& options_;
    const uint64_t window_;
    const RowMath& math_;
    std::vector<Candidate> candidates_;  // by stream
    uint32_t n_steps_ = 0;
};

// ---- Beam search ----------------------------------------------------------------------------------------------------

class BeamSearch final : public Search {
  public:
    BeamSearch(const DecodeOptions& options, const RowMath& math)
        : options_(options),
          math_(math),
          beam_size_(static_cast<size_t>(options.beam_size)),
          most_finished_(count_candidates(options)) {}

    // openai's first step has the same sequence beam_size times, and its dictionary keeps one of each result. One
    // sequence here gives the same.
    void update(const std::vector<FilteredRow>& rows) override {
        std::vector<Extension> extensions = extend_all(rows);
        const auto is_better = [](const Extension& a, const Extension& b) { return a.sum_logprob > b.sum_logprob; };
        std::stable_sort(extensions.begin(), extensions.end(), is_better);

        std::vector<LiveSequence> beams;
        for (const Extension& extension : extensions) {
            if (beams.size() == beam_size_) break;
            if (extension.token == options_.eot) {
                end(extension);
            } else {
                beams.push_back(continued(extension));
            }
        }
        live_ = std::move(beams);
    }

    bool is_done() const override { return finished_.size() >= most_finished_; }

    // Return the finished sequences. Where too few ended by themselves, the best of the others join them.
    std::vector<Candidate> finish() override {
        std::vector<const LiveSequence*> unfinished;
        for (const LiveSequence& sequence : live_) unfinished.push_back(&sequence);
        const auto is_worse = [](const LiveSequence* a, const LiveSequence* b) {
            return a->sum_logprob < b->sum_logprob;
        };
        std::stable_sort(unfinished.begin(), unfinished.end(), is_worse);  // as openai's, which is read backwards
        while (finished_.size() < beam_size_ && !unfinished.empty()) {
            finished_.push_back({unfinished.back()->tokens, unfinished.back()->sum_logprob});
            unfinished.pop_back();
        }
        return std::move(finished_);
    }

  private:
    struct Extension {
        float sum_logprob;
        int32_t token;
        int source;
    };

    static size_t count_candidates(const DecodeOptions& options) {
        const double patience = options.patience.value_or(0);
        // Python's round(): to the even one of two that are as near
        return static_cast<size_t>(std::nearbyint(options.beam_size * (patience == 0 ? 1 : patience)));
    }

    std::vector<Extension> extend_all(const std::vector<FilteredRow>& rows) const {
        std::vector<Extension> extensions;
        for (size_t i = 0; i < rows.size(); ++i) {
            const Distribution distribution(rows[i], math_);
            for (const int32_t token : distribution.likeliest(options_.beam_size + 1)) {
                const float sum = live_[i].sum_logprob + distribution.log_probability(token);
                extensions.push_back({sum, token, static_cast<int>(i)});
            }
        }
        return extensions;
    }

    LiveSequence continued(const Extension& extension) const {
        LiveSequence sequence = live_[static_cast<size_t>(extension.source)];
        sequence.tokens.push_back(extension.token);
        sequence.sum_logprob = extension.sum_logprob;
        sequence.source = extension.source;
        return sequence;
    }

    void end(const Extension& extension) {
        if (is_done()) return;
        finished_.push_back({live_[static_cast<size_t>(extension.source)].tokens, extension.sum_logprob});
    }

    const DecodeOptions& options_;
    const RowMath& math_;
    const size_t beam_size_, most_finished_;
    std::vector<Candidate> finished_;
};

}  // namespace

// ---- Distribution ---------------------------------------------------------------------------------------------------

Distribution::Distribution(const FilteredRow& row, const RowMath& math) : row_(row), math_(math), largest_(kNever) {
    bool has_nan = false;
    for (int64_t i = row.begin; i < row.end; i += kBlock) {
        const float largest = math.max_of(row.logits + i, std::min(kBlock, row.end - i));
        block_largest_.push_back(largest);
        has_nan = has_nan || largest != largest;
        largest_ = std::max(largest_, largest);
    }
    if (has_nan || largest_ == -kNever) refuse_logits();
    if (largest_ == kNever) {
        throw Error(
            Status::inference,
            "no token is left to be sampled: all that the rules of decoding allow here are suppressed; suppress "
            "fewer tokens, and never the end of the text or all times");
    }
    log_sum_ = static_cast<float>(std::log(math.sum_exp(row.logits + row.begin, row.end - row.begin, largest_, 1)));
}

int64_t Distribution::block_begin(size_t block) const noexcept {
    return row_.begin + static_cast<int64_t>(block) * kBlock;
}

int64_t Distribution::block_end(size_t block) const noexcept {
    return std::min(block_begin(block) + kBlock, row_.end);
}

float Distribution::log_probability(int64_t token) const {
    return is_in(token) ? (row_.logits[token] - largest_) - log_sum_ : kNever;
}

int32_t Distribution::likeliest() const {
    const auto block = std::find(block_largest_.begin(), block_largest_.end(), largest_) - block_largest_.begin();
    const float* from = row_.logits + block_begin(static_cast<size_t>(block));
    return static_cast<int32_t>(std::find(from, row_.logits + row_.end, largest_) - row_.logits);
}

std::vector<int32_t> Distribution::likeliest(int n) const {
    // The first of equal logits is the better one, so that a later token has to be above them to get in.
    std::vector<int32_t> best;
    const auto is_better = [this](int32_t a, int32_t b) {
        const float of_a = row_.logits[a], of_b = row_.logits[b];
        return of_a > of_b || (of_a == of_b && a < b);
    };
    const size_t wanted = static_cast<size_t>(n);
    float least = kNever;  // to get in
    for (size_t block = 0; block < block_largest_.size(); ++block) {
        if (!(block_largest_[block] > least)) continue;
        for (int64_t i = block_begin(block); i < block_end(block); ++i) {
            if (!(row_.logits[i] > least)) continue;
            if (best.size() == wanted) {
                std::pop_heap(best.begin(), best.end(), is_better);
                best.pop_back();
            }
            best.push_back(static_cast<int32_t>(i));
            std::push_heap(best.begin(), best.end(), is_better);
            if (best.size() == wanted) least = row_.logits[best.front()];
        }
    }
    std::sort_heap(best.begin(), best.end(), is_better);
    for (int32_t id = 0; best.size() < wanted; ++id) {
        if (log_probability(id) == kNever) best.push_back(id);
    }
    return best;
}

int32_t Distribution::sample(double u, float temperature) const {
    const float scale = 1 / temperature;
    if (std::isinf(scale)) return likeliest();
    const auto weight_of = [&](int64_t begin, int64_t end) {
        return math_.sum_exp(row_.logits + begin, end - begin, largest_, scale);
    };
    std::vector<double> block_weights;
    double all = 0;
    for (size_t block = 0; block < block_largest_.size(); ++block) {
        block_weights.push_back(weight_of(block_begin(block), block_end(block)));
        all += block_weights.back();
    }

    const double wanted = u * all;
    double before = 0;
    size_t block = 0;
    while (block + 1 < block_weights.size() && before + block_weights[block] <= wanted)
        before += block_weights[block++];
    int64_t last_possible = likeliest();  // where rounding leaves a little at the end of the block
    for (int64_t i = block_begin(block); i < block_end(block); ++i) {
        const double weight = weight_of(i, i + 1);
        if (weight == 0) continue;
        last_possible = i;
        before += weight;
        if (before > wanted) break;
    }
    return static_cast<int32_t>(last_possible);
}

// ---- The choice -----------------------------------------------------------------------------------------------------

std::unique_ptr<Search> begin_search(const DecodeOptions& options, uint64_t stream, const RowMath& math) {
    if (options.beam_size > 0) return std::make_unique<BeamSearch>(options, math);
    return std::make_unique<SamplingSearch>(options, stream, math);
}

size_t rank(const std::vector<Candidate>& candidates, std::optional<double> length_penalty) {
    const auto score = [&](const Candidate& candidate) {
        const double length = static_cast<double>(std::max<size_t>(1, candidate.tokens.size()));
        const double penalty = length_penalty ? std::pow((5 + length) / 6, *length_penalty) : length;
        return double{candidate.sum_logprob} / penalty;
    };
    size_t best = 0;
    for (size_t i = 1; i < candidates.size(); ++i) {
        if (score(candidates[i]) > score(candidates[best])) best = i;
    }
    return best;
}

}  // namespace whisperq::decoding
