// A study of the cost of int8 activations: it rounds the inputs of linear layers in models of floats. Biases, norms,
// softmax and the products of attention stay as they are.
//
// `multiply` asks for it before every product, and the decoder says which rows are whose. Nothing else knows of it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/aligned.h"
#include "core/thread_pool.h"
#include "edge/weights.h"

namespace whisperq::edge {

struct Rows;

// Which values of an input share a scale.
enum class ActivationScheme {
    none,     // nothing is rounded
    observe,  // nor here, but the largest magnitude that each linear is given is kept
    tensor,   // all rows; where rows of several sequences are one input, those of each
    token,    // a row
    block,    // so many values of a row
    fixed,    // all, and all inputs to come: what is beyond the range is clipped
};

// int8 codes in [-127, 127] with scale = max |x| / 127; or, where not symmetric, uint8 codes with a zero point over
// [min(x, 0), max(x, 0)]. Codes are round(x / scale) to nearest, ties to even, as the kernels' quantised inputs are.
// Scales are floats. Values whose scale is no normal float become 0.
struct ActivationRounding {
    ActivationScheme scheme = ActivationScheme::none;
    int64_t block = 32;  // of ActivationScheme::block; the last of a row may be shorter
    bool symmetric = true;
    std::map<std::string, float> ranges;        // of ActivationScheme::fixed: largest magnitudes by linear
    std::optional<std::set<std::string>> only;  // which linears; without it those of the layers
};

// Return the linears that `rounding` is about. Without `only`, observe is about every linear, so that its ranges do for
// any choice.
std::vector<const Linear*> chosen_linears(const std::vector<const Linear*>& linears,
                                          const ActivationRounding& rounding);

class ActivationStudy {
  public:
    // `linears` are all of a model's, and must live longer.
    //
    // Throws Error(Status::unsupported_model) where a linear is quantised, because its product rounds the input itself.
    // Throws Error(Status::internal) for a missing range, which the caller should have refused. Nothing has changed
    // then.
    void start(const std::vector<const Linear*>& linears, ActivationRounding rounding);
    bool is_on() const noexcept { return rounding_.scheme != ActivationScheme::none; }

    // The largest magnitudes since `observe` was last started, of the linears that were given something since.
    const std::map<std::string, float>& observed() const noexcept { return observed_; }

    // Return the rows that the linear is multiplied with: the input itself, or its rounded copy, which stays until the
    // next call. Throws std::bad_alloc.
    Rows seen_by(const Linear& linear, const Rows& input, ThreadPool& pool);

  private:
    friend class RowGroups;
    // The values between which codes are spread; 0 is one of them.
    struct Range {
        float least = 0.0f, greatest = 0.0f;
        void include(const Range& other);
    };

    static Range range_of(const float* values, int64_t n);
    static std::vector<Range> ranges_of_rows(const Rows& input, int64_t k, ThreadPool& pool);
    std::vector<Range> ranges_for(const Linear& linear, const Rows& input, ThreadPool& pool) const;
    void share_within_groups(std::vector<Range>& ranges) const;
    void observe(const Linear& linear, const Rows& input, ThreadPool& pool);
    void round(const float* values, int64_t n, const Range& range, float* out) const;
    void round_in_blocks(const float* values, int64_t n, float* out) const;

    ActivationRounding rounding_;
    std::unordered_map<const Linear*, float> chosen_;  // and the fixed range of each
    std::map<std::string, float> observed_;
    std::vector<int64_t> groups_;  // rows of each; none: all rows belong together
    AlignedBuffer rounded_;
};

// A mark, for as long as it lives, that inputs hold the rows of several sequences one after another. sizes() says how
// many rows each has. It is called only if there is a study.
class RowGroups {
  public:
    template <class Sizes>
    RowGroups(ActivationStudy* study, const Sizes& sizes) : study_(study) {
        if (study_ == nullptr) return;
        groups_ = sizes();
        std::swap(groups_, study_->groups_);
    }
    ~RowGroups() {
        if (study_ != nullptr) std::swap(groups_, study_->groups_);
    }
    RowGroups(const RowGroups&) = delete;
    RowGroups& operator=(const RowGroups&) = delete;

  private:
    ActivationStudy* study_;
    std::vector<int64_t> groups_;  // those that come back
};

}  // namespace whisperq::edge
